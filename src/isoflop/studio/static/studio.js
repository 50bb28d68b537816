// Pages work without this; it makes figures answer, quotes follow the form, and runs tell how they go.
let observer = null;

function enliven(root) {
  const boxes = [...root.querySelectorAll(".plot")];
  for (const box of boxes) box.classList.add("ready");
  const widths = boxes.map(box => box.getBoundingClientRect().width);
  const plots = new Map(boxes.map((box, i) => [box, new Plot(box, widths[i])]));
  for (const plot of plots.values()) addTools(plot, new Pointing(plot));
  for (const figure of root.querySelectorAll("figure"))
    addLegend(figure, [...figure.querySelectorAll(".plot")].map(box => plots.get(box)));
  for (const details of root.querySelectorAll("details.data")) addNumbers(details);
  observer?.disconnect();
  observer = new ResizeObserver(entries => {
    for (const {target, contentRect} of entries) plots.get(target)?.resize(contentRect.width);
  });
  for (const box of boxes) observer.observe(box);
}

// A quote follows its form; its address is the state.
function followForm(form) {
  const answer = document.getElementById("answer"), asking = document.getElementById("asking");
  const by = form.elements.by, amount = form.elements.amount, slider = document.getElementById("slider");
  const usual = {flops: 1e15, hours: 1, kwh: 0.1, money: 10, loss: 4};
  let timer = 0, number = 0, middle = Number(amount.value) || 0;
  const arrange = () => {
    const unit = by.selectedOptions[0]?.dataset.unit, hint = form.querySelector('[data-field="amount"] small');
    if (hint && unit) hint.textContent = unit;
    for (const part of form.querySelectorAll("[data-for]")) part.hidden = !part.dataset.for.split(" ").includes(by.value);
  };
  const query = () => {
    const said = new URLSearchParams();
    for (const [name, value] of new FormData(form))
      if (typeof value === "string" && value.trim() && !(name === "count" && value === "5")) said.set(name, value.trim());
    if (by.value === "file" || by.value === "params") { said.delete("amount"); said.delete("count"); }
    if (by.value !== "params") said.delete("sizes");
    return said;
  };
  const ask = async () => {
    const said = query(), mine = ++number;
    history.replaceState(null, "", "/quote?" + said);
    said.set("part", "answer");
    asking.textContent = "…";
    try {
      const html = await (await fetch("/quote?" + said)).text();
      if (mine !== number) return;
      answer.replaceChildren(...new DOMParser().parseFromString(html, "text/html").body.childNodes);
      enliven(answer);
      asking.textContent = "";
    } catch {
      asking.textContent = "the studio is not reached";
    }
  };
  const soon = () => { clearTimeout(timer); timer = setTimeout(ask, 120); };
  by.addEventListener("change", () => {
    middle = usual[by.value] ?? 0;
    amount.value = middle || "";
    slider.value = 0;
    arrange();
  });
  amount.addEventListener("input", () => { middle = Number(amount.value) || middle; slider.value = 0; });
  slider.addEventListener("input", () => {
    if (!middle) return;
    const factor = 10 ** (slider.value / (by.value === "loss" ? 500 : 100));
    amount.value = Number((middle * factor).toPrecision(3));
  });
  form.addEventListener("input", event => { if (event.target.type !== "file") soon(); });
  form.addEventListener("submit", event => { event.preventDefault(); ask(); });
  document.getElementById("bring")?.addEventListener("change", bring);
  arrange();

  async function bring(event) {
    const [file] = event.target.files, told = document.getElementById("brought");
    if (!file) return;
    told.textContent = "sending…";
    const headers = {"X-Token": document.body.dataset.token, "Accept": "application/json"};
    try {
      const answer = await fetch("/corpora?name=" + encodeURIComponent(file.name), {method: "POST", body: file, headers});
      const said = await answer.json();
      told.textContent = said.error ?? "here";
      if (said.corpus) { form.elements.corpus.value = said.corpus; ask(); }
    } catch {
      told.textContent = "not sent: too large, or the studio is not reached";
    }
  }
}

// A run tells of itself; when its state is another, what may be done with it is too.
function followRun(box) {
  const source = new EventSource(box.dataset.events);
  source.addEventListener("live", event => {
    const focused = document.activeElement?.closest?.("#live") !== null && box.contains(document.activeElement);
    const next = new DOMParser().parseFromString(event.data, "text/html").body;
    const state = next.firstElementChild?.dataset.state;
    if (state && state !== box.dataset.state) { source.close(); location.reload(); return; }
    if (focused || box.querySelector("details[open]")) return; // whoever reads there is not disturbed
    box.replaceChildren(...next.childNodes);
    enliven(box);
  });
  addEventListener("pagehide", () => source.close());
}

function tryFamily(form) {
  const told = document.getElementById("trying"), stop = document.getElementById("stop");
  let source = null;
  const end = text => { source?.close(); source = null; stop.hidden = true; told.textContent = text; };
  stop.addEventListener("click", () => end("stopped"));
  form.addEventListener("submit", event => {
    event.preventDefault();
    end("");
    const said = new URLSearchParams(new FormData(form)), chosen = said.getAll("model");
    if (!chosen.length) { told.textContent = "choose a model"; return; }
    for (const article of document.querySelectorAll("#columns article")) {
      article.hidden = !chosen.includes(article.dataset.model);
      article.querySelector(".prompt").textContent = said.get("prompt");
      article.querySelector(".written").textContent = "";
      article.querySelector("small").textContent = `seed ${said.get("seed")}`;
    }
    history.replaceState(null, "", "?" + said);
    source = new EventSource(form.dataset.stream + "?" + said);
    stop.hidden = false;
    told.textContent = "writing…";
    source.onmessage = ({data}) => {
      const piece = JSON.parse(data), article = document.querySelector(`article[data-model="${CSS.escape(piece.model)}"]`);
      article.querySelector(".written").textContent += piece.text;
      if (piece.done) article.querySelector("small").textContent = `seed ${said.get("seed")}, ${piece.done}`;
    };
    source.addEventListener("fault", ({data}) => end(JSON.parse(data)));
    source.addEventListener("end", () => end("done"));
    source.onerror = () => end("the studio did not answer");
  });
}

enliven(document);
const quoteForm = document.getElementById("quote-form"), live = document.getElementById("live");
const tryForm = document.getElementById("try-form"), goStep = document.getElementById("go-step");
if (quoteForm) followForm(quoteForm);
if (live) followRun(live);
if (tryForm) tryFamily(tryForm);
goStep?.addEventListener("submit", event => {
  event.preventDefault();
  location.href = goStep.dataset.base + goStep.querySelector("input").value;
});
document.documentElement.dataset.ready = "yes";
