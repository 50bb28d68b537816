const told = [];
for (const mark of [...svg.querySelectorAll(".mark.held, .mark.s0")]) { point("pointermove", middle(mark)); told.push(shown()); }
point("pointerleave", [0, 0]); const left = shown();
plot.focus();
press("ArrowRight"); press("ArrowDown");
const steps = []; for (let i = 0; i < 4; i++) { press("ArrowRight"); steps.push(shown()); }
press("ArrowDown"); const down = shown(); press("Escape"); const gone = shown();
const key = [...figure.querySelectorAll(".legend button")].find(one => one.textContent.trim() === "measured");
key.click(); const hidden = svg.querySelectorAll(".mark.s0.hidden").length, pressed = key.getAttribute("aria-pressed");
const held = svg.querySelectorAll(".mark.held:not(.hidden)").length;
const curve = page.querySelector("#curves svg"), line = curve.querySelector(".line:not(.silent)");
return {told, left, steps, down, gone, hidden, pressed, held, focus: page.activeElement === plot, role: plot.getAttribute("role"),
        live: tip().getAttribute("aria-live"), label: plot.getAttribute("aria-label")};
