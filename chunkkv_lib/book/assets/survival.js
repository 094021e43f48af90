// "Which tokens survive": makes the controls of figures/survival.py work. No library, no network.
"use strict";
(() => {
  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));

  function start(view) {
    const data = JSON.parse(view.querySelector(".survival-data").textContent);
    const n = data.texts.length, row = Math.ceil(n / 8);
    const masks = {}, ranks = {};
    for (const [method, budgets] of Object.entries(data.masks)) masks[method] = budgets.map(bytes);
    for (const [method, text] of Object.entries(data.ranks)) ranks[method] = bytes(text);
    const inEvidence = new Uint8Array(n);
    for (const [first, stop] of data.evidence) inEvidence.fill(1, first, stop);
    const evidence = inEvidence.reduce((sum, one) => sum + one, 0);
    const control = name => view.querySelector(`[data-control="${name}"]`);
    const heads = () => Number(control("head").value) < data.heads ? [Number(control("head").value)]
      : [...Array(data.heads).keys()];

    // How many of the chosen heads keep each token.
    function counts(method) {
      const mask = masks[method][Number(control("budget").value)], found = new Uint8Array(n);
      for (const head of heads()) {
        const at = (Number(control("layer").value) * data.heads + head) * row;
        for (let i = 0; i < n; i++) found[i] += (mask[at + (i >> 3)] >> (7 - (i & 7))) & 1;
      }
      return found;
    }

    const panels = [...view.querySelectorAll(".survival-panel")].map(box => {
      const text = box.querySelector(".survival-text");
      text.textContent = "";
      const tokens = data.texts.map((word, i) => {
        const span = document.createElement("span");
        span.textContent = word;
        span.dataset.i = i;
        return span;
      });
      text.append(...tokens);
      return { box, text, tokens, at: -1, select: box.querySelector('[data-control="method"]') };
    });

    function draw(panel) {
      const [method, colour] = data.methods[Number(panel.select.value)];
      const chosen = heads().length, found = counts(method);
      let kept = 0, hit = 0;
      panel.found = found;
      panel.box.style.setProperty("--kept", colour);
      panel.tokens.forEach((token, i) => {
        kept += found[i];
        hit += inEvidence[i] * found[i];
        token.className = (found[i] ? "k" + Math.ceil(4 * found[i] / chosen) : "") + (inEvidence[i] ? " ev" : "");
      });
      const mean = total => (total / chosen).toLocaleString("en", { maximumFractionDigits: 1 });
      panel.box.querySelector(".survival-count").textContent =
        `${method} keeps ${mean(kept)} of ${n.toLocaleString("en")} tokens` +
        (evidence ? `, ${mean(hit)} of ${evidence} evidence tokens` : "") + (chosen > 1 ? " (mean of the heads)." : ".");
      panel.text.setAttribute("aria-label",
        `The prompt as ${method} keeps it. Arrow keys go from token to token.`);
      if (panel.at >= 0) tell(panel, panel.at);
    }

    function tell(panel, i) {
      const method = data.methods[Number(panel.select.value)][0], chosen = heads();
      panel.tokens[panel.at]?.classList.remove("here");
      panel.at = i;
      panel.tokens[i].classList.add("here");
      const past = n - data.window, chunk = i < past ? `chunk ${Math.floor(i / data.chunk)}` : "in the window";
      const stays = panel.found[i], of = chosen.length;
      const fate = of === 1 ? (stays ? "stays" : "evicted") : `stays in ${stays} of ${of} heads`;
      const ranked = (ranks[method] ? chosen : [])
        .map(head => ranks[method][(Number(control("layer").value) * data.heads + head) * n + i])
        .filter(rank => rank <= 100);
      const mean = Math.round(ranked.reduce((sum, rank) => sum + rank, 0) / ranked.length);
      panel.box.querySelector(".survival-token").textContent =
        `“${data.texts[i].trim() || "␣"}”, position ${i.toLocaleString("en")}, ${chunk}: ${fate}` +
        (ranked.length ? `; its score is above ${mean} % of the prompt's.` : ".");
    }

    for (const panel of panels) {
      panel.select.addEventListener("change", () => draw(panel));
      panel.text.addEventListener("pointerover", event => {
        if (event.target.dataset.i) tell(panel, Number(event.target.dataset.i));
      });
      panel.text.addEventListener("keydown", event => {
        const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: data.chunk, ArrowUp: -data.chunk }[event.key];
        if (!step) return;
        event.preventDefault();
        tell(panel, Math.min(n - 1, Math.max(0, panel.at + step)));
        panel.tokens[panel.at].scrollIntoView({ block: "nearest" });
      });
    }
    for (const name of ["budget", "layer", "head"]) {
      control(name).addEventListener("input", () => {
        if (name === "layer") view.querySelector("output").textContent = control("layer").value;
        panels.forEach(draw);
      });
    }
    panels.forEach(draw);
    view.dataset.ready = "true";
  }

  const all = () => document.querySelectorAll(".survival").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
})();
