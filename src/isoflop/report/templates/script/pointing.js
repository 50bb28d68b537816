// Pointer and keyboard: what lies there, zooming, and going from point to point.
class Pointing {
  constructor(plot) {
    this.plot = plot;
    this.box = plot.box;
    this.tip = document.createElement("output");
    this.tip.className = "tip";
    this.tip.setAttribute("aria-live", "polite");
    this.tip.hidden = true;
    this.box.append(this.tip);
    this.ring = element("circle", {class: "ring hidden", r: 9}, plot.svg);
    this.frame = element("rect", {class: "zoom-frame hidden"}, plot.svg);
    this.at = [0, 0];
    this.drag = null;
    const title = plot.svg.querySelector("title").textContent;
    Object.entries({tabindex: 0, role: "application", "aria-roledescription": "figure", "aria-label":
      `${title}. Arrow keys go from point to point, up and down from series to series; plus and minus zoom, shift with arrows moves, 0 shows all.`,
    }).forEach(([key, value]) => this.box.setAttribute(key, value));
    const {svg} = plot;
    svg.addEventListener("pointermove", event => this.moved(event));
    svg.addEventListener("pointerleave", () => this.drag || this.hide());
    svg.addEventListener("pointerdown", event => this.pressed(event));
    svg.addEventListener("pointerup", event => this.released(event));
    svg.addEventListener("pointercancel", () => this.endDrag());
    svg.addEventListener("dblclick", () => this.changed(() => plot.reset()));
    svg.addEventListener("wheel", event => this.wheeled(event), {passive: false});
    this.box.addEventListener("keydown", event => this.key(event));
    this.box.addEventListener("blur", () => this.hide());
  }

  changed(action) { this.hide(); action(); }

  place(event) {
    const {left, top, width} = this.plot.svg.getBoundingClientRect(), scale = this.plot.width / width;
    return [(event.clientX - left) * scale, (event.clientY - top) * scale];
  }

  panelAt(y) {
    const away = panel => Math.max(panel.top - y, y - panel.bottom, 0);
    return this.plot.panels.reduce((best, panel) => away(panel) < away(best) ? panel : best);
  }

  moved(event) {
    const [x, y] = this.place(event);
    if (this.drag) return this.drawDrag(x, y);
    const panel = this.panelAt(y), target = panel.nearest(x, y);
    if (target) this.show(panel, target); else this.hide();
  }

  show(panel, target) {
    this.tip.textContent = panel.tell(target);
    this.tip.hidden = false;
    this.ring.classList.remove("hidden");
    this.ring.setAttribute("cx", target.px); this.ring.setAttribute("cy", target.py);
    const scale = this.plot.svg.getBoundingClientRect().width / this.plot.width;
    const half = this.tip.offsetWidth / 2, x = Math.max(half, Math.min(this.box.clientWidth - half, target.px * scale));
    const above = target.py * scale > this.tip.offsetHeight + 18;
    this.tip.style.left = `${x - half}px`;
    this.tip.style.top = `${target.py * scale + (above ? -this.tip.offsetHeight - 14 : 16)}px`;
  }

  hide() {
    this.tip.hidden = true;
    this.ring.classList.add("hidden");
  }

  // A box is drawn with mouse or pen; a finger scrolls the page.
  pressed(event) {
    if (event.button !== 0 || event.pointerType === "touch") return;
    const [x, y] = this.place(event);
    this.drag = {x, y, panel: this.panelAt(y)};
    if (event.isTrusted) this.plot.svg.setPointerCapture(event.pointerId);
  }

  drawDrag(x, y) {
    const {panel} = this.drag, cut = (value, low, high) => Math.max(low, Math.min(high, value));
    const xs = [this.drag.x, x].map(value => cut(value, panel.left, panel.right)).sort((a, b) => a - b);
    const ys = [this.drag.y, y].map(value => cut(value, panel.top, panel.bottom)).sort((a, b) => a - b);
    Object.assign(this.drag, {xs, ys});
    this.hide();
    this.frame.classList.remove("hidden");
    for (const [key, value] of Object.entries({x: xs[0], y: ys[0], width: xs[1] - xs[0], height: ys[1] - ys[0]})) this.frame.setAttribute(key, value);
  }

  released(event) {
    const {xs, ys, panel} = this.drag || {};
    this.endDrag();
    if (!xs || (xs[1] - xs[0] < 8 && ys[1] - ys[0] < 8)) return;
    if (xs[1] - xs[0] >= 8) this.plot.zoomX(panel.valueX(xs[0]), panel.valueX(xs[1]));
    if (ys[1] - ys[0] >= 8) Object.assign(panel.y, {low: panel.valueY(ys[1]), high: panel.valueY(ys[0])});
    this.plot.draw();
    event.preventDefault();
  }

  endDrag() {
    this.drag = null;
    this.frame.classList.add("hidden");
  }

  // With Ctrl or Cmd, as maps do: without, the wheel scrolls the page.
  wheeled(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const at = this.place(event);
    this.changed(() => this.plot.zoom(Math.exp(-event.deltaY / 300), this.panelAt(at[1]), at));
  }

  // What arrow keys go through: the marks of each panel from left to right by series, then each line that can be pointed
  // at; what was drawn last first, for it matters most.
  rows() {
    const rows = [];
    for (const panel of this.plot.panels) {
      const bySeries = new Map();
      for (const mark of panel.marks) {
        if (!panel.shows(mark) || mark.outside) continue;
        const key = mark.series || "";
        if (!bySeries.has(key)) bySeries.set(key, []);
        bySeries.get(key).push([panel, {mark, px: mark.px, py: mark.py}]);
      }
      for (const row of [...bySeries.values()].reverse()) rows.push(row.sort((a, b) => a[1].px - b[1].px));
      for (const line of [...panel.lines].reverse()) {
        if (line.silent || !line.label || !panel.shows(line)) continue;
        const row = [...line.px.keys()].map(i => [panel, {line, i, px: line.px[i], py: line.py[i]}]);
        const inside = row.filter(([, target]) => panel.holds(target.px, target.py));
        if (inside.length) rows.push(inside);
      }
    }
    return rows;
  }

  step(dx, dy) {
    const rows = this.rows();
    if (!rows.length) return;
    const before = this.tip.hidden ? null : this.at;
    const row = before ? (before[0] + dy + rows.length) % rows.length : 0;
    const from = before ? Math.min(before[1], rows[row].length - 1) : 0;
    const leap = rows[row].length > 60 ? 4 : 1;
    this.at = [row, Math.max(0, Math.min(rows[row].length - 1, before ? from + dx * leap : 0))];
    this.show(...rows[this.at[0]][this.at[1]]);
  }

  key(event) {
    if (event.target !== this.box || event.altKey || event.ctrlKey || event.metaKey) return;
    const arrows = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    const {plot} = this;
    if (arrows && event.shiftKey) this.changed(() => plot.pan(arrows[0] * 0.15, arrows[1] * 0.15));
    else if (arrows) this.step(...arrows);
    else if (event.key === "+" || event.key === "=") this.changed(() => plot.zoom(1.4));
    else if (event.key === "-") this.changed(() => plot.zoom(1 / 1.4));
    else if (event.key === "0") this.changed(() => plot.reset());
    else if (event.key === "Escape") this.hide();
    else return;
    event.preventDefault();
  }
}
