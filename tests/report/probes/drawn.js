const lines = [...page.querySelectorAll("#curves .plot .line")];
const points = lines.map(line => (line.getAttribute("d") ?? "").match(/-?[\d.]+/g)?.length / 2 || 0);
return [lines.filter(line => !line.matches(".silent")).length, points.reduce((one, other) => one + other, 0)];
