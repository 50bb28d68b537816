// What a serious finding of an accessibility checker would be on these pages; a list of sentences, empty if there is none.
(() => {
  const found = [];
  const shown = element => element.getClientRects().length && getComputedStyle(element).visibility !== "hidden";
  const tell = (what, element) => found.push(`${what}: ${element.outerHTML.slice(0, 120)}`);
  if (!document.documentElement.lang) found.push("no language");
  if (!document.title.trim()) found.push("no title");
  if (document.querySelectorAll("h1").length !== 1) found.push("not one h1");
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  const ids = [...document.querySelectorAll("[id]")].map(one => one.id);
  for (const id of ids) if (ids.filter(other => other === id).length > 1) found.push(`id twice: ${id}`);
  for (const element of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    const named = [...(element.labels ?? [])].some(label => label.textContent.trim()) || element.getAttribute("aria-label");
    if (shown(element) && !named) tell("a field without a name", element);
  }
  for (const element of document.querySelectorAll("a[href], button, summary"))
    if (shown(element) && !(element.textContent.trim() || element.getAttribute("aria-label"))) tell("no name", element);
  for (const element of document.querySelectorAll("[role=img], img"))
    if (!(element.getAttribute("aria-label") || element.getAttribute("aria-labelledby") || element.alt)) tell("an image without words", element);
  for (const element of document.querySelectorAll("[aria-labelledby]"))
    for (const id of element.getAttribute("aria-labelledby").split(" "))
      if (!document.getElementById(id)) tell("labelled by nothing", element);
  for (const element of document.querySelectorAll("body *")) {
    const style = getComputedStyle(element);
    const scrolls = ["auto", "scroll"].includes(style.overflowX) && element.scrollWidth > element.clientWidth + 1;
    if (scrolls && element.tabIndex < 0 && !element.querySelector("a, button, input")) tell("scrolls and takes no focus", element);
  }
  const numbers = colour => (colour.match(/[\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = element => {
    for (let one = element; one; one = one.parentElement) {
      const colour = numbers(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !shown(element) || element.closest("svg, :disabled, .visually-hidden, .skip, noscript, script")) continue;
    const [a, b] = [numbers(getComputedStyle(element).color), behind(element)].map(light).sort((x, y) => y - x);
    const {fontSize, fontWeight} = getComputedStyle(element);
    const large = parseFloat(fontSize) >= 24 || (parseFloat(fontSize) >= 18.66 && fontWeight >= 700);
    if ((a + 0.05) / (b + 0.05) < (large ? 3 : 4.5)) tell(`contrast ${((a + 0.05) / (b + 0.05)).toFixed(1)}`, element);
  }
  if (document.documentElement.scrollWidth > innerWidth) found.push(`wider than the window by ${document.documentElement.scrollWidth - innerWidth}`);
  return found;
})()
