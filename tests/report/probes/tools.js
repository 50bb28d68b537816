const {left, top} = svg.getBoundingClientRect(), first = ticks();
point("pointerdown", [left + 300, top + 80], {button: 0}); point("pointermove", [left + 600, top + 200]); point("pointerup", [left + 600, top + 200]);
const boxed = ticks(); tool("All").click(); const all = ticks();
tool("log x").click(); const linear = ticks(), pressed = tool("log x").getAttribute("aria-pressed"); tool("log x").click(); const again = ticks();
const blobs = []; view.URL.createObjectURL = blob => (blobs.push(blob), "#");
tool("SVG").click(); tool("PNG").click();
await until(() => blobs.length === 2);
const parsed = new view.DOMParser().parseFromString(await settled(blobs[0].text()), "image/svg+xml");
const png = new Uint8Array(await settled(blobs[1].arrayBuffer()));
const details = figure.querySelector("details.data"); details.open = true;
await until(() => details.querySelector("td"));
const theme = page.querySelector("#theme button"), paper = () => view.getComputedStyle(page.body).backgroundColor;
const light = paper(); theme.click(); const dark = paper();
return {first, boxed, all, linear, pressed, again, root: parsed.documentElement.nodeName, style: !!parsed.querySelector("style"), marks: parsed.querySelectorAll(".mark").length,
        png: [...png.slice(0, 4)], size: png.length, rows: [...details.querySelectorAll("tbody tr")].map(row => [...row.cells].map(cell => cell.textContent)), light, dark};
