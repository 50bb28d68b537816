// Everything on the page is there without this script; it makes figures answer.
let plotsOnPage = new Map(), observer = null;

function enliven() {
  const boxes = [...document.querySelectorAll(".plot")];
  for (const box of boxes) box.classList.add("ready");
  // All widths before anything is changed: reading one after a change lays the page out again.
  const widths = boxes.map(box => box.getBoundingClientRect().width);
  const plots = new Map(boxes.map((box, i) => [box, new Plot(box, widths[i])]));
  for (const plot of plots.values()) addTools(plot, new Pointing(plot));
  for (const figure of document.querySelectorAll("figure"))
    addLegend(figure, [...figure.querySelectorAll(".plot")].map(box => plots.get(box)));
  for (const details of document.querySelectorAll("details.data")) addNumbers(details);
  observer?.disconnect();
  observer = new ResizeObserver(entries => {
    for (const {target, contentRect} of entries) plots.get(target).resize(contentRect.width);
  });
  for (const box of boxes) observer.observe(box);
  addTheme();
  document.documentElement.dataset.drawn = Math.round(performance.now());
  return plotsOnPage = plots;
}
enliven();
