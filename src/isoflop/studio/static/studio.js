// Pages are read and their forms sent without this; it makes figures answer, quotes follow the form, runs tell how they
// go, and families write.
let observer = null, plots = new Map();

function enliven(root) {
  const boxes = [...root.querySelectorAll(".plot")];
  for (const box of boxes) box.classList.add("ready");
  const widths = boxes.map(box => box.getBoundingClientRect().width);
  plots = new Map(boxes.map((box, i) => [box, new Plot(box, widths[i])]));
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

// New content in the place of old; whoever held something there by the keyboard holds what is in its place.
function renew(root, nodes) {
  const focusable = "a, button, summary, input, [tabindex]", at = [...root.querySelectorAll(focusable)].indexOf(document.activeElement);
  root.replaceChildren(...nodes);
  if (root.querySelector(".plot")) enliven(root);
  if (at >= 0) root.querySelectorAll(focusable)[at]?.focus({preventScroll: true});
}

// In words why an answer is none that was asked for; "" where it is.
const lacking = answer => answer.redirected || answer.status === 401 ? "you are signed out here; come in again in another tab" :
  answer.status === 404 ? "it is not here any more" : answer.ok ? "" : `the studio answered ${answer.status}`;
const unreached = "the studio is not reached";

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
      const got = await fetch("/quote?" + said), lacks = got.status === 422 ? "" : lacking(got), html = await got.text();
      if (mine !== number) return;
      asking.textContent = lacks;
      if (lacks) return;
      renew(answer, new DOMParser().parseFromString(html, "text/html").body.childNodes);
      mark();
    } catch {
      if (mine === number) asking.textContent = unreached;
    }
  };
  // What cannot work begins with the name of its field.
  const mark = () => {
    const wrong = answer.querySelector("[role=alert] p")?.textContent.match(/^\w+/)?.[0];
    for (const field of form.elements) if (field.name) field.setAttribute("aria-invalid", String(field.name === wrong));
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
  mark();

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

// A run tells of itself; when its state is another, what may be done with it is too. A tab that nobody sees listens to
// nothing: a browser has six connections to one address, and a seventh tab would wait for ever.
function followRun(box) {
  const told = document.getElementById("stale"), shown = new Map();
  let source = null, timer = 0, heard = new Date();
  const alive = () => { clearTimeout(timer); timer = 0; heard = new Date(); told.textContent = ""; };
  const stale = why => { told.textContent = `Not live: this is of ${heard.toLocaleTimeString()}; ${why}. It is tried again.`; };
  const leave = () => { clearTimeout(timer); timer = 0; source?.close(); source = null; };
  const follow = () => {
    leave();
    if (document.hidden) return;
    source = new EventSource(box.dataset.events);
    source.addEventListener("open", alive);
    source.addEventListener("live", ({data}) => { alive(); show(data); });
    source.addEventListener("error", () => {
      // After a connection that has ended it tries again by itself, after another answer than a stream it does not.
      if (source?.readyState === EventSource.CLOSED) again();
      else timer ||= setTimeout(() => stale(unreached), 4000);
    });
  };
  const again = async () => {
    let lacks = unreached;
    try {
      const hold = new AbortController(), answer = await fetch(box.dataset.events, {signal: hold.signal, cache: "no-store"});
      hold.abort();
      lacks = lacking(answer);
    } catch {}
    if (!lacks) return follow();
    stale(lacks);
    clearTimeout(timer);
    timer = setTimeout(again, 5000);
  };
  const show = html => {
    const next = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
    if (next.dataset.state && next.dataset.state !== box.dataset.state) { leave(); location.reload(); return; }
    if (next.dataset.said) document.getElementById("waits").textContent = next.dataset.said;
    for (const part of next.children) {
      const name = part.dataset.part, now = box.querySelector(`[data-part="${name}"]`);
      if (!now || shown.get(name) === part.outerHTML) continue;
      // Whoever reads a figure's numbers, goes from point to point or has zoomed is not disturbed.
      const zoomed = [...plots].some(([box, plot]) => now.contains(box) && plot.panels.some(panel =>
        ["x", "y"].some((axis, i) => panel[axis].low !== panel.home[i].low || panel[axis].high !== panel.home[i].high)));
      if (now.querySelector("details[open]") || now.querySelector(".plot:focus-within, .plot:focus") || zoomed) continue;
      shown.set(name, part.outerHTML);
      for (const {name, value} of part.attributes) now.setAttribute(name, value);
      renew(now, part.childNodes);
    }
  };
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", leave);
  addEventListener("pageshow", event => { if (event.persisted) follow(); });
  follow();
}

function tryFamily(form) {
  const told = document.getElementById("trying"), stop = document.getElementById("stop");
  let hold = null;
  const end = text => { hold?.abort(); hold = null; stop.hidden = true; told.textContent = text; };
  const column = model => document.querySelector(`article[data-model="${CSS.escape(model)}"]`);
  stop.addEventListener("click", () => end("stopped"));
  form.addEventListener("submit", async event => {
    event.preventDefault();
    end("");
    const said = new URLSearchParams(new FormData(form)), chosen = said.getAll("model"), seed = said.get("seed");
    if (!chosen.length) { told.textContent = "choose a model"; return; }
    for (const article of document.querySelectorAll("#columns article")) {
      article.hidden = !chosen.includes(article.dataset.model);
      article.querySelector(".prompt").textContent = said.get("prompt");
      article.querySelector(".written").textContent = "";
      article.querySelector("small").textContent = `seed ${seed}`;
    }
    history.replaceState(null, "", "?" + said);
    const mine = hold = new AbortController();
    stop.hidden = false;
    told.textContent = "writing…";
    const hear = (kind, piece) => {
      if (kind === "fault") return end(piece);
      if (kind === "end") return end("done");
      const article = column(piece.model);
      article.querySelector(".written").textContent += piece.text;
      if (piece.done) article.querySelector("small").textContent = `seed ${seed}, ${piece.done}`;
    };
    try {
      const answer = await fetch(form.dataset.stream + "?" + said, {signal: mine.signal, headers: {Accept: "application/json"}});
      if (!answer.ok || answer.redirected) {
        const why = answer.redirected ? {} : await answer.json().catch(() => ({}));
        return end(why.error ?? lacking(answer));
      }
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; hold === mine;) {
        const {value, done} = await reader.read();
        if (done) return hold === mine && end("the studio stopped in the middle");
        const events = (rest + value).split("\n\n");
        rest = events.pop();
        for (const one of events) {
          const [, kind, data] = one.match(/^(?:event: (\w+)\n)?data: ([^]*)$/) ?? [];
          if (hold === mine && data) hear(kind, JSON.parse(data));
        }
      }
    } catch {
      if (hold === mine) end(unreached);
    }
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
