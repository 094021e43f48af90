/* Six stops that set the controls, and two buttons that look for a layer in which the two rules disagree. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

{
  const inWord = (p, i) => i > 0 && /^\w/.test(p.texts[i]) && /\w$/.test(p.texts[i - 1]);

  // How far each set of one layer is ahead of the layer's others in keeping the outlined passage.
  const ahead = (p, { sets }) => {
    const kept = sets.map(m => p.marked.filter(i => m[i]).length), all = kept.reduce((a, b) => a + b, 0);
    return kept.map(mine => mine - (all - mine) / Math.max(kept.length - 1, 1));
  };
  const cosine = (left, right) => Math.abs(left.cosine - right.cosine);

  // What each stop sets for a prompt, and of which quantity of both rules' results it shows the layer with
  // the most; in the order of the page's buttons, which carry the words.
  const STOPS = [
    () => [{ left: "ChunkKV", right: "Recent" }, cosine],
    p => {
      const sizes = Array.from({ length: 26 }, (_, i) => i + 5);
      const cutAt = size => p.marked.find(i => i % size === 0 && inWord(p, i));
      const chunk = sizes.find(cutAt) ?? 7, at = cutAt(chunk) ?? p.marked[0];
      const cuts = ({ sets }) => sets.filter(mask => mask[at] !== mask[at - 1]).length;
      return [{ left: "ChunkKV", right: "SnapKV", chunk }, cuts];
    },
    p => {
      const chunk = Math.min(50, Math.max(p.marked.length, 20));
      const lead = (left, right) => right.evidence - left.evidence;
      return [{ left: "SnapKV", right: "ChunkKV", kernel: 3, chunk }, lead];
    },
    p => [{ left: "ChunkKV", right: "SnapKV" }, left => Math.max(...ahead(p, left))],
    () => [{ left: "Random", right: "ChunkKV" }, cosine],
    () => [{ left: "Oracle", right: "ChunkKV" }, cosine],
  ];
  const PLAIN = { budget: 10, chunk: 10, window: 8, kernel: 7, share: "kv_head", head: "all" };

  Lab.tour = page => {
    const { root, prompts, view } = page, { find } = view;
    const told = find("stop"), stops = [...root.querySelectorAll(".lab-tour [data-text]")];
    const prompt = () => prompts[page.state().prompt];

    stops.forEach((button, i) => {
      button.onclick = () => {
        const p = prompt(), [values, most] = STOPS[i](p), s = { ...page.state(), ...PLAIN, ...values };
        const [left, right] = [s.left, s.right].map(method => Lab.results(p, page.side(s, method)));
        const found = left.map((one, l) => most(one, right[l])), layer = found.indexOf(Math.max(...found));
        const leads = ahead(p, left[layer]), head = i === 3 ? leads.indexOf(Math.max(...leads)) : "all";
        page.set({ ...s, head, layer });
        view.scroll(prompt(), i ? undefined : 0);
        told.textContent = button.dataset.text;
        stops.forEach(other => other.setAttribute("aria-pressed", other === button));
      };
    });

    // The layer, and failing that the budget, at which one side is furthest ahead in keeping the evidence.
    const search = winner => {
      const s = page.state(), p = prompt(), names = winner ? [s.right, s.left] : [s.left, s.right];
      let best = { lead: 1e-9 };
      for (const budget of new Set([s.budget, 5, 10, 15, 20, 30, 40])) {
        const [left, right] = s.sides.map(side => Lab.results(p, { ...side, budget }));
        left.forEach((one, layer) => {
          const lead = (one.evidence - right[layer].evidence) * (winner ? -1 : 1);
          if (lead > best.lead) best = { lead, layer, budget };
        });
        if (best.lead > 0.3) break;
      }
      if (best.budget) page.set({ layer: best.layer, budget: best.budget, head: "all" });
      view.scroll(p);
      told.textContent = best.budget
        ? `In layer ${best.layer}, at a budget of ${best.budget} %, ${names[0]} keeps `
          + `${Math.round(100 * best.lead)} percentage points more of the outlined passage than ${names[1]}.`
        : `At none of the budgets tried does ${names[0]} keep more of it. Change another control.`;
    };
    find("find-left").onclick = () => search(0);
    find("find-right").onclick = () => search(1);
  };
}
