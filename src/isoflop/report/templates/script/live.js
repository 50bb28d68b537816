// Shown by isoflop serve: looks whether something changed, and puts the new page in the place of this one. What a reader
// has zoomed, switched off or opened stays.
const LOOK_SECONDS = 3;
let seen = null;

async function lookForNews() {
  const status = document.getElementById("live");
  try {
    const version = await (await fetch("version", {cache: "no-store"})).text();
    if (seen !== null && version !== seen && !document.querySelector(".zoom-frame:not(.hidden)")) {
      show(new DOMParser().parseFromString(await (await fetch("./", {cache: "no-store"})).text(), "text/html"));
    }
    seen = version;
    if (status) status.textContent = "live";
  } catch {
    if (status) status.textContent = "not reached: is isoflop serve still running?";
  }
  setTimeout(lookForNews, 1000 * LOOK_SECONDS);
}

function show(page) {
  const kept = remember(), focused = document.activeElement.dataset?.name;
  for (const part of ["header", "main", "footer"]) document.querySelector(`body > ${part}`).replaceWith(document.importNode(page.querySelector(`body > ${part}`), true));
  recall(kept, enliven());
  if (focused) document.querySelector(`.plot[data-name="${CSS.escape(focused)}"]`)?.focus({preventScroll: true});
}

function remember() {
  const zooms = new Map([...plotsOnPage].map(([box, plot]) => [box.dataset.name, plot.panels.map(panel =>
    ["x", "y"].map((axis, i) => {
      const {low, high, log} = panel[axis], home = panel.home[i];
      return low === home.low && high === home.high && log === home.log ? null : {low, high, log};
    }))]));
  const off = [...document.querySelectorAll("figure")].map(figure => [figure.id, [...figure.querySelectorAll(".legend [aria-pressed=false]")].map(key => key.dataset.series)]);
  const open = [...document.querySelectorAll("details")].map((details, i) => details.open ? i : -1);
  return {zooms, off, open};
}

function recall({zooms, off, open}, plots) {
  document.querySelectorAll("details").forEach((details, i) => details.open = open.includes(i));
  for (const [id, series] of off)
    for (const key of document.getElementById(id)?.querySelectorAll(".legend button") ?? [])
      if (series.includes(key.dataset.series)) key.click();
  for (const [box, plot] of plots) {
    const panels = zooms.get(box.dataset.name) ?? [];
    if (!panels.flat().some(Boolean)) continue;
    panels.forEach((axes, i) => axes.forEach((zoom, j) => zoom && plot.panels[i] && Object.assign(plot.panels[i][j ? "y" : "x"], zoom)));
    plot.draw();
  }
}

lookForNews();
