// A figure that was drawn by isoflop, read back into data units and drawn again at this width, on these axes.
const LEAST = 240, NARROW = 600, LEFT = 58, RIGHT = 14, TOP = 32, BOTTOM = 46, GAP = 42;
const SVG = "http://www.w3.org/2000/svg";

function element(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function takeTitle(path) {
  const title = path.querySelector("title");
  if (title) title.remove();
  return title ? title.textContent : "";
}

// Measured beside the page: asking the page itself would lay it out again for every word.
const ruler = document.createElement("canvas").getContext("2d");
function textWidth(text) {
  ruler.font = "600 12.5px ui-sans-serif, system-ui, sans-serif";
  return ruler.measureText(text).width;
}

class Panel {
  constructor(group) {
    this.group = group;
    [this.left, this.right, this.top, this.bottom] = group.dataset.frame.split(" ").map(Number);
    this.share = Number(group.dataset.share);
    this.x = JSON.parse(group.dataset.x);
    this.y = JSON.parse(group.dataset.y);
    this.home = [{...this.x}, {...this.y}];
    this.clip = group.querySelector("clipPath rect");
    this.axes = group.querySelector(".axes");
    this.lines = [...group.querySelectorAll(":scope > g[clip-path] > path")].map(path => this.readLine(path));
    this.marks = [...group.querySelectorAll(":scope > path.mark")].map(path => ({path, told: takeTitle(path), ...this.readPlace(path)}));
    this.words = [...group.querySelectorAll(":scope > text.words")].map(path =>
      ({path, dx: Math.abs(Number(path.getAttribute("x"))), dy: Number(path.getAttribute("y")), ...this.readPlace(path)}));
  }

  readPlace(path) {
    const [x, y] = path.getAttribute("transform").slice(10, -1).split(" ").map(Number);
    return {series: path.dataset.series, x: this.valueX(x), y: this.valueY(y)};
  }

  readLine(path) {
    const numbers = path.getAttribute("d").split(/[Mlz ]+/).filter(Boolean).map(Number);
    const n = numbers.length / 2, xs = new Float64Array(n), ys = new Float64Array(n);
    for (let i = 0, x = 0, y = 0; i < n; i++) {
      xs[i] = this.valueX(x += numbers[2 * i]);
      ys[i] = this.valueY(y += numbers[2 * i + 1]);
    }
    const silent = path.classList.contains("silent"), closed = path.classList.contains("area");
    return {path, xs, ys, silent, closed, label: takeTitle(path), series: path.dataset.series};
  }

  atX(value) { return place(this.x, value, this.left, this.right); }
  atY(value) { return place(this.y, value, this.bottom, this.top); }
  valueX(pixel) { return unplace(this.x, pixel, this.left, this.right); }
  valueY(pixel) { return unplace(this.y, pixel, this.bottom, this.top); }

  draw(xLabels) {
    const {left, right, top, bottom} = this;
    this.clip.setAttribute("x", left); this.clip.setAttribute("y", top);
    this.clip.setAttribute("width", right - left); this.clip.setAttribute("height", bottom - top);
    this.drawAxes(xLabels);
    for (const line of this.lines) this.drawLine(line);
    for (const mark of this.marks) this.drawMark(mark);
    this.drawWords();
  }

  drawAxes(xLabels) {
    const {axes, left, right, top, bottom} = this;
    axes.replaceChildren();
    const most = [Math.max(3, Math.min(8, Math.floor((right - left) / 95))), Math.max(3, Math.min(6, Math.floor((bottom - top) / 34)))];
    const grid = {grid: "", "grid minor": ""};
    for (const [value, label] of ticks(this.x, most[0])) {
      const at = this.atX(value).toFixed(1);
      grid[label ? "grid" : "grid minor"] += `M${at} ${top}V${bottom}`;
      if (label && xLabels) element("text", {class: "tick", x: at, y: bottom + 18, "text-anchor": "middle"}, axes, label);
    }
    for (const [value, label] of ticks(this.y, most[1])) {
      const at = this.atY(value);
      grid[label ? "grid" : "grid minor"] += `M${left} ${at.toFixed(1)}H${right}`;
      if (label) element("text", {class: "tick", x: left - 8, y: (at + 4.5).toFixed(1), "text-anchor": "end"}, axes, label);
    }
    for (const kind of ["grid", "grid minor"]) axes.prepend(element("path", {class: kind, d: grid[kind]}));
    element("path", {class: "axis", d: `M${left} ${bottom}H${right}`}, axes);
    if (this.y.title) element("text", {class: "axis-title", x: 0, y: top - 14}, axes, this.y.title);
    if (xLabels) element("text", {class: "axis-title", x: right, y: bottom + 38, "text-anchor": "end"}, axes, this.x.title);
  }

  drawLine(line) {
    const n = line.xs.length, px = new Float32Array(n), py = new Float32Array(n), steps = new Array(n);
    // What lies far outside is cut near the frame: enormous coordinates are drawn wrong.
    const far = 4000, near = value => Math.max(-far, Math.min(far, value));
    for (let i = 0; i < n; i++) {
      px[i] = near(this.atX(line.xs[i])); py[i] = near(this.atY(line.ys[i]));
      steps[i] = px[i].toFixed(2) + " " + py[i].toFixed(2);
    }
    Object.assign(line, {px, py});
    line.path.setAttribute("d", n ? "M" + steps.join("L") + (line.closed ? "z" : "") : "");
  }

  drawMark(mark) {
    mark.px = this.atX(mark.x); mark.py = this.atY(mark.y);
    mark.outside = !this.holds(mark.px, mark.py);
    mark.path.classList.toggle("outside", mark.outside);
    mark.path.setAttribute("transform", `translate(${mark.px.toFixed(2)} ${mark.py.toFixed(2)})`);
  }

  holds(x, y) { return x >= this.left - 1 && x <= this.right + 1 && y >= this.top - 1 && y <= this.bottom + 1; }

  drawWords() {
    const taken = [];
    for (const words of this.words) {
      if (words.path.classList.contains("hidden")) continue;
      words.length ??= textWidth(words.path.textContent);
      const x = this.atX(words.x), y = this.atY(words.y), inward = x + words.dx + words.length > this.right;
      const begin = inward ? x - words.dx - words.length : x + words.dx;
      const free = this.holds(x, y) && begin > 0 &&
        taken.every(([other, n, h]) => begin > other + n + 4 || begin + words.length < other - 4 || Math.abs(y - h) > 15);
      words.path.classList.toggle("off", !free);
      if (!free) continue;
      taken.push([begin, words.length, y]);
      words.path.setAttribute("transform", `translate(${x.toFixed(2)} ${y.toFixed(2)})`);
      words.path.setAttribute("x", inward ? -words.dx : words.dx);
      words.path.setAttribute("text-anchor", inward ? "end" : "start");
    }
  }

  // The nearest visible mark or point of a line, a mark before a line; null if none is near.
  nearest(x, y) {
    let best = null, distance = 30;
    for (const mark of this.marks) {
      const away = Math.hypot(mark.px - x, mark.py - y) - 6;
      if (away < distance && this.shows(mark) && !mark.outside) { best = {mark, px: mark.px, py: mark.py}; distance = away; }
    }
    for (const line of this.lines) {
      if (line.silent || !line.label || !this.shows(line)) continue;
      for (let i = 0; i < line.px.length; i++) {
        const away = Math.hypot(line.px[i] - x, line.py[i] - y);
        if (away < distance && this.holds(line.px[i], line.py[i])) { best = {line, i, px: line.px[i], py: line.py[i]}; distance = away; }
      }
    }
    return best;
  }

  shows(shape) { return !shape.path.classList.contains("hidden"); }

  tell(target) {
    if (target.mark) return target.mark.told;
    const {line, i} = target, unit = scale => scale.unit ? "\u00a0" + scale.unit : "";
    return `${line.label}: ${TOLD[this.y.labels](line.ys[i])}${unit(this.y)} at ${TOLD[this.x.labels](line.xs[i])}${unit(this.x)}`;
  }
}

class Plot {
  constructor(box, width) {
    this.box = box;
    this.svg = box.querySelector("svg");
    this.panels = [...box.querySelectorAll("g.panel")].map(group => new Panel(group));
    this.resize(width);
  }

  // To a width in pixels, as the page has it.
  resize(width) {
    if (Math.abs((this.width || 0) - Math.max(LEAST, width)) < 0.5) return;
    this.width = Math.max(LEAST, width);
    this.draw();
  }

  draw() {
    this.height = Number(this.width < NARROW ? this.box.dataset.narrowHeight : this.box.dataset.height);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    const free = this.height - TOP - BOTTOM - GAP * (this.panels.length - 1);
    const total = this.panels.reduce((sum, panel) => sum + panel.share, 0);
    let top = TOP;
    this.panels.forEach((panel, i) => {
      Object.assign(panel, {left: LEFT, right: this.width - RIGHT, top, bottom: top + free * panel.share / total});
      top = panel.bottom + GAP;
      panel.draw(i === this.panels.length - 1);
    });
  }

  // Panels share their x axis.
  zoomX(low, high) { for (const panel of this.panels) Object.assign(panel.x, {low, high}); }

  reset() {
    for (const panel of this.panels) {
      Object.assign(panel.x, panel.home[0], {log: panel.x.log});
      Object.assign(panel.y, panel.home[1], {log: panel.y.log});
    }
    this.draw();
  }

  // By a factor about a point of a panel, in pixels; without one about the middle of each.
  zoom(factor, about = null, at = null) {
    const ends = (scale, start, end, fixed) => {
      const low = unplace(scale, fixed + (start - fixed) / factor, start, end);
      const high = unplace(scale, fixed + (end - fixed) / factor, start, end);
      if (Number.isFinite(low) && Number.isFinite(high) && high > low * (1 + 1e-9)) Object.assign(scale, {low, high});
    };
    for (const panel of this.panels) {
      const {left, right, top, bottom} = panel;
      ends(panel.x, left, right, at ? at[0] : (left + right) / 2);
      if (!about || about === panel) ends(panel.y, bottom, top, at ? at[1] : (top + bottom) / 2);
    }
    this.draw();
  }

  pan(dx, dy) {
    for (const panel of this.panels) {
      const {left, right, top, bottom} = panel, across = dx * (right - left), up = dy * (bottom - top);
      const [xLow, xHigh] = [panel.valueX(left + across), panel.valueX(right + across)];
      const [yLow, yHigh] = [panel.valueY(bottom - up), panel.valueY(top - up)];
      Object.assign(panel.x, {low: xLow, high: xHigh});
      Object.assign(panel.y, {low: yLow, high: yHigh});
    }
    this.draw();
  }

  // The axis ("x" or "y") logarithmic or linear, over its whole range again.
  setLog(axis, log) {
    for (const panel of this.panels) {
      const home = panel.home[axis === "x" ? 0 : 1];
      if (home.low > 0) Object.assign(panel[axis], home, {log});
    }
    this.draw();
  }

  setHidden(series, hidden) {
    for (const panel of this.panels)
      for (const shape of [...panel.lines, ...panel.marks, ...panel.words])
        if (shape.series === series) shape.path.classList.toggle("hidden", hidden);
    this.draw();
  }
}
