const places = () => [...svg.querySelectorAll(".mark, .line")].map(one => one.getAttribute("transform") || one.getAttribute("d"));
const labels = ticks(), before = places();
press("+"); const zoomed = [places(), ticks()];
press("0"); const after = places();
const curves = [...page.querySelectorAll("#curves text.tick")].map(text => text.textContent);
return {labels, before, zoomed, after, curves, width: plot.getBoundingClientRect().width};
