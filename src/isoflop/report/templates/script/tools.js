// Buttons: zoom and axes, legends that switch series, SVG and PNG to take away, light and dark.
function button(text, label, action, parent, pressed) {
  const made = document.createElement("button");
  Object.assign(made, {type: "button", className: "tool", textContent: text, title: label});
  made.setAttribute("aria-label", label);
  if (pressed !== undefined) made.setAttribute("aria-pressed", pressed);
  made.addEventListener("click", () => action(made));
  parent.append(made);
  return made;
}

function addTools(plot, pointing) {
  const tools = plot.box.parentElement.querySelector(".tools"), group = document.createElement("span");
  group.className = "group";
  tools.prepend(group);
  button("SVG", "Save the figure as SVG", () => save(new Blob([picture(plot)], {type: "image/svg+xml"}), plot, "svg"), tools);
  button("PNG", "Save the figure as PNG", () => savePng(plot), tools);
  if (plot.box.dataset.still) return;
  button("+", "Zoom in", () => pointing.changed(() => plot.zoom(1.4)), group);
  button("\u2212", "Zoom out", () => pointing.changed(() => plot.zoom(1 / 1.4)), group);
  button("All", "Show all again", () => pointing.changed(() => plot.reset()), group);
  for (const axis of ["x", "y"]) {
    const canBeLog = plot.panels.some(panel => panel.home[axis === "x" ? 0 : 1].low > 0);
    if (!canBeLog) continue;
    button(`log ${axis}`, `log ${axis}: logarithmic ${axis} axis`, made => {
      const log = made.getAttribute("aria-pressed") !== "true";
      made.setAttribute("aria-pressed", log);
      pointing.changed(() => plot.setLog(axis, log));
    }, group, plot.panels.some(panel => panel[axis].log));
  }
}

function addLegend(figure, plots) {
  for (const key of figure.querySelectorAll(".legend button")) {
    key.addEventListener("click", () => {
      const shown = key.getAttribute("aria-pressed") !== "true";
      key.setAttribute("aria-pressed", shown);
      for (const plot of plots) plot.setHidden(key.dataset.series, !shown);
    });
  }
}

// The figure as it is now with title, legend and its style inside, in light colours: it is for paper and slides.
function picture(plot) {
  const copy = plot.svg.cloneNode(true), head = 36, {width} = plot;
  for (const gone of copy.querySelectorAll(".ring, .zoom-frame, .hidden, .off, .outside")) gone.remove();
  for (const [key, value] of Object.entries({y: head, width, height: plot.height})) copy.setAttribute(key, value);
  const whole = element("svg", {xmlns: SVG});
  element("style", {}, whole, document.getElementById("figure-style").textContent);
  const paper = element("rect", {x: -10, y: -4, fill: "#fff"}, whole);
  element("text", {class: "figure-title", x: 0, y: 16}, whole, copy.querySelector("title").textContent);
  whole.append(copy);
  const height = drawKeys(plot, whole, head + plot.height + 20) - 4;
  for (const [key, value] of Object.entries({width: width + 20, height: height + 8})) { paper.setAttribute(key, value); whole.setAttribute(key, value); }
  whole.setAttribute("viewBox", `-10 -4 ${width + 20} ${height + 8}`);
  return new XMLSerializer().serializeToString(whole);
}

// The entries of the legend that are switched on, in rows; returns where they end.
function drawKeys(plot, whole, y) {
  const keys = [...plot.box.closest("figure").querySelectorAll(".legend li")].filter(key => !key.querySelector("[aria-pressed=false]"));
  let x = 12;
  for (const key of keys) {
    const label = key.textContent.trim(), length = 40 + textWidth(label);
    if (x > 12 && x + length > plot.width) { x = 12; y += 22; }
    const place = element("g", {transform: `translate(${x} ${y})`}, whole);
    place.append(key.querySelector("path").cloneNode());
    element("text", {x: 18, y: 4.5}, place, label);
    x += length;
  }
  return keys.length ? y + 18 : y;
}

function save(blob, plot, ending) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${plot.box.dataset.name}.${ending}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function savePng(plot) {
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    canvas.width = 2 * image.width; canvas.height = 2 * image.height;
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob(blob => save(blob, plot, "png"), "image/png");
  };
  image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(picture(plot));
}

// A figure's CSV as a table, made when it is asked for.
function addNumbers(details) {
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    const link = details.parentElement.querySelector("a[download]");
    const [head, ...rows] = readCsv(decodeURIComponent(link.href.slice(link.href.indexOf(",") + 1)));
    const table = document.createElement("table"), body = table.createTBody(), numeric = head.map((_, i) => rows.every(row => row[i] === "" || !isNaN(row[i])));
    const titles = table.createTHead().insertRow();
    head.forEach((title, i) => titles.append(Object.assign(document.createElement("th"), {scope: "col", textContent: title, className: numeric[i] ? "" : "left"})));
    for (const row of rows.slice(0, MOST_ROWS)) {
      const line = body.insertRow();
      row.forEach((cell, i) => Object.assign(line.insertCell(), {
        textContent: cell === "" ? "\u2013" : numeric[i] && cell.length > 8 ? String(Number(Number(cell).toPrecision(6))) : cell, className: numeric[i] ? "" : "left"}));
    }
    if (rows.length > MOST_ROWS) Object.assign(table.createCaption(), {textContent: `The first ${MOST_ROWS} of ${rows.length.toLocaleString("en-US")} rows; the CSV has all.`});
    details.querySelector(".scroll").append(table);
  });
}

const MOST_ROWS = 500;

// Rows of cells; quoted cells may hold commas, line ends and doubled quotes.
function readCsv(text) {
  const rows = [[]];
  for (const [, quoted, bare, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^,\n"]*))(,|\n|$)/g)) {
    rows[rows.length - 1].push(quoted === undefined ? bare : quoted.replaceAll('""', '"'));
    if (end === "\n") rows.push([]);
    if (end === "") break;
  }
  return rows.filter(row => row.length > 1 || row[0]);
}

function addTheme() {
  const place = document.getElementById("theme");
  if (!place) return;
  const dark = () => (document.documentElement.dataset.theme ||
    (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  button("Dark", "Dark colours", made => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    made.setAttribute("aria-pressed", dark());
  }, place, dark());
}
