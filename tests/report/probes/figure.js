const plot = page.querySelector("#compute .plot"), svg = plot.querySelector("svg"), tip = () => plot.querySelector(".tip");
const figure = page.getElementById("compute");
const ticks = (among = svg) => [...among.querySelectorAll("text.tick")].map(text => text.textContent);
const press = key => plot.dispatchEvent(new view.KeyboardEvent("keydown", {key, bubbles: true}));
const tool = text => [...figure.querySelectorAll(".tools button")].find(one => one.textContent === text);
const middle = element => { const {left, right, top, bottom} = element.getBoundingClientRect(); return [(left + right) / 2, (top + bottom) / 2]; };
const point = (kind, [clientX, clientY], more = {}) => svg.dispatchEvent(new view.PointerEvent(kind, {clientX, clientY, bubbles: true, ...more}));
const shown = one => !tip().hidden && tip().textContent;
