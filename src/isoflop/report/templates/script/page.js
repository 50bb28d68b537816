// Everything on the page is there without this script; it makes figures answer.
function enliven() {
  const plots = new Map([...document.querySelectorAll(".plot")].map(box => [box, new Plot(box)]));
  for (const plot of plots.values()) addTools(plot, new Pointing(plot));
  for (const figure of document.querySelectorAll("figure"))
    addLegend(figure, [...figure.querySelectorAll(".plot")].map(box => plots.get(box)));
  const observer = new ResizeObserver(entries => {
    for (const {target} of entries) {
      const plot = plots.get(target);
      if (Math.abs(plot.width - Math.max(240, target.getBoundingClientRect().width)) > 0.5) plot.draw();
    }
  });
  for (const box of plots.keys()) observer.observe(box);
  addTheme();
  document.documentElement.dataset.drawn = Math.round(performance.now());
}
enliven();
