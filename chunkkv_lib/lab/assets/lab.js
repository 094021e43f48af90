/* The page: its form is the state, the address repeats it, and every change is drawn. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

{
  const FAINT = ["ChunkKV", "SnapKV", "H2O"];  // with the paper's settings, as a reference in the charts
  const PAPER = { chunk: 10, window: 8, kernel: 7, share: "kv_head" };
  const DRAWS = [1, 2, 3, 4];  // seeds of the random choices from whose mean the differences are taken
  const NUMBERS = ["prompt", "budget", "chunk", "window", "kernel", "layer"];

  Lab.start = async root => {
    const data = JSON.parse(root.querySelector(".lab-data").textContent), form = root.querySelector("form");
    const prompts = await Promise.all(data.prompts.map(Lab.unpack)), controls = form.elements;
    const view = Lab.view(root, data.colours), { find, panels } = view;
    const page = { root, form, prompts, panels, view };
    const weights = [...form.querySelectorAll("[data-part]")];
    let shown = null, rule = null, later = 0;

    page.side = (s, method) => ({ ...s, method, rule, seed: 0 });
    page.state = () => {
      const s = Object.fromEntries(new FormData(form));
      for (const name of NUMBERS) s[name] = Number(s[name]);
      s.layer = Math.min(s.layer, prompts[s.prompt].layers - 1);
      return { ...s, sides: [page.side(s, s.left), page.side(s, s.right)] };
    };

    // Values from an address or a stop of the tour; what a control does not offer is left out.
    page.set = values => {
      for (const [name, value] of Object.entries(values)) {
        const control = controls.namedItem(name);
        const among = options => [...options].some(one => one.value === String(value));
        const offered = control?.options ? among(control.options) : control;
        if (control?.type === "checkbox") control.checked = value === "on";
        else if (offered && control.type !== "hidden") control.value = value;
      }
      page.update();
    };
    // What an address names, the rest as at first, in the layer where one side is furthest ahead in keeping
    // the evidence: something happens there.
    page.open = values => {
      form.reset();
      page.set(values);
      const s = page.state();
      if (values.layer || s.sides.some(side => side.method === "Own rule" && !side.rule)) return;
      const [left, right] = s.sides.map(side => Lab.results(prompts[s.prompt], side));
      const ahead = left.map((one, l) => one.evidence - right[l].evidence);
      const sign = Math.sign(ahead.reduce((a, b) => a + b, 0)) || 1, leads = ahead.map(lead => lead * sign);
      page.set({ layer: leads.indexOf(Math.max(...leads)) });
    };
    const asked = () => {
      const [mark, ...rest] = (location.hash || location.search).slice(1).split("&");
      return mark === "lab" && Object.fromEntries(new URLSearchParams(rest.join("&")));
    };

    const drawPrompt = p => {
      shown = p;
      view.text(p);
      root.querySelectorAll(".lab-asked").forEach((asked, i) => { asked.hidden = prompts[i] !== p; });
      controls.layer.max = p.layers - 1;
      const { head } = controls, chosen = head.value;
      const each = Array.from({ length: p.heads }, (_, h) => new Option(`only KV head ${h}`, h));
      head.replaceChildren(head.options[0], ...each);
      head.value = each.some(one => one.value === chosen) ? chosen : "all";
      page.draws = page.faint = null;
    };

    // The words beside the controls; false if the formula cannot be read.
    const drawControls = (p, s) => {
      const own = s.left === "Own rule" || s.right === "Own rule", fits = Lab.window(s, p.n);
      const tokens = Lab.tokens(s.budget, p.n);
      let problem = fits < s.window ? `The window is ${fits}: more do not fit into ${tokens} tokens.` : "";
      try {
        if (own) rule = Lab.ownRule(s.formula);
      } catch (error) { problem = error.message; rule = null; }
      find("problem").textContent = problem;
      find("own").hidden = !own;
      for (const name of ["budget", "chunk", "kernel", "layer"]) {
        const text = name === "budget" ? `${s.budget} %, ${tokens} tokens` : String(s[name]);
        controls[name].setAttribute("aria-valuetext", text);
        form.querySelector(`output[for="lab-${name}"]`).textContent = text;
      }
      for (const weight of weights) weight.labels[0].lastElementChild.textContent = weight.value;
      return !own || rule;
    };

    page.update = () => {
      const p = prompts[page.state().prompt];
      if (shown !== p) drawPrompt(p);
      if (!drawControls(p, page.state())) return;
      const s = page.state(), both = s.sides.map(side => Lab.results(p, side));
      view.draw(p, s, both, page.draws, page.faint);
      clearTimeout(later);
      later = setTimeout(() => {  // what only stands beside, when the text has been shown
        page.draws = DRAWS.map(seed => Lab.results(p, { ...page.side(s, "Random"), seed }));
        page.faint = {};
        for (const method of FAINT)
          page.faint[method] = Lab.results(p, { ...page.side(s, method), ...PAPER });
        view.draw(p, s, both, page.draws, page.faint);
        history.replaceState(null, "", `#lab&${new URLSearchParams(new FormData(form))}`);
        root.dataset.ready = JSON.stringify({ ...s, sides: undefined });
      }, 60);
    };

    form.addEventListener("input", event => {
      if (weights.includes(event.target)) {
        const parts = weights.filter(w => Number(w.value)).map(w => `${w.value} * ${w.dataset.part}`);
        controls.formula.value = parts.join(" + ").replaceAll("+ -", "- ") || "0";
      }
      page.update();
    });
    form.addEventListener("submit", event => event.preventDefault());
    root.addEventListener("layer", event => page.set({ layer: event.detail }));
    panels.forEach(({ side, text, list }, i) => {
      text.addEventListener("scroll", () => { panels[1 - i].text.scrollTop = text.scrollTop; });
      list.parentElement.addEventListener("toggle", page.update);
      find(`strip-${side}`).addEventListener("click", event => {
        if (event.target.title) page.set({ layer: event.target.title });
      });
    });
    find("all").addEventListener("toggle", page.update);
    let playing = 0;
    find("play").addEventListener("click", ({ target }) => {
      clearInterval(playing);
      const on = target.getAttribute("aria-pressed") !== "true";
      target.setAttribute("aria-pressed", on);
      target.textContent = on ? "Stop" : "Play the layers";
      if (on) playing = setInterval(() => page.set({ layer: (page.state().layer + 1) % shown.layers }), 600);
    });
    for (const button of form.querySelectorAll("[data-address]"))
      button.addEventListener("click", () => { location.hash = button.dataset.address; });
    addEventListener("hashchange", () => { if (asked()) page.open(asked()); });
    root.classList.add("lab-live");
    Lab.page = page;
    Lab.tour(page);
    page.open(asked() || {});
  };

  const all = () => document.querySelectorAll(".lab").forEach(Lab.start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
}
