const marks = ".line:not(.silent), .mark:not(.outside)";
const shown = [...page.querySelectorAll(".plot > svg")].filter(svg => svg.checkVisibility());
const visible = element => view.getComputedStyle(element).display !== "none";
return {
  width: view.innerWidth, scroll_width: page.documentElement.scrollWidth,
  resources: view.performance.getEntriesByType("resource").map(entry => entry.name),
  background: view.getComputedStyle(page.body).backgroundColor, ink: view.getComputedStyle(page.body).color,
  plots: page.querySelectorAll(".plot").length,
  drawings: shown.map(svg => ({box: box(svg), marks: [...svg.querySelectorAll(marks)].map(box)})),
  texts: shown.flatMap(svg => [...svg.querySelectorAll("text")].filter(visible).map(text => [...box(text), text.textContent])),
  labels: shown.map(svg => [...svg.querySelectorAll("text")].filter(visible).map(text => {
    const {left, right, top, bottom} = text.getBoundingClientRect();
    return [left, right, top, bottom, text.textContent];
  })),
  headings: [...page.querySelectorAll("h1, h2, h3")].filter(heading => heading.checkVisibility()).map(heading => [...box(heading), heading.textContent]),
};
