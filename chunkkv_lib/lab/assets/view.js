/* What the page shows of a setting: the two texts, their numbers, the strips of layers and the charts. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

{
  const SIDES = ["left", "right"];
  const mean = values => values.reduce((a, b) => a + b, 0) / values.length;
  const signed = x => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(3)}`;
  const made = (name, text) => Object.assign(document.createElement(name), { textContent: text });

  Lab.view = (root, colours) => {
    const find = name => root.querySelector(`.lab-${name}`);
    const panels = SIDES.map(side => {
      const inside = name => find(side).querySelector(`.lab-${name}`);
      return { side, told: inside("told"), text: inside("text"), list: inside("list"), tokens: [] };
    });
    const view = { panels, find };

    // Another prompt: its tokens, the passage that holds the answer inside one outline.
    view.text = p => {
      const marked = new Set(p.marked);
      for (const panel of panels) {
        panel.tokens = p.texts.map(piece => made("span", piece.replace(/\n/g, " ⏎ ")));
        panel.text.replaceChildren();
        panel.tokens.forEach((token, i) => {
          if (!marked.has(i)) return panel.text.append(token);
          if (!marked.has(i - 1)) panel.text.append(document.createElement("mark"));
          panel.text.lastChild.append(token);
        });
      }
      view.scroll(p);
    };

    view.scroll = (p, to = Math.min(...p.marked, p.n - 1)) => {
      for (const { text, tokens } of panels) text.scrollTop = tokens[to].offsetTop - text.clientHeight / 3;
    };

    const drawPanel = (p, s, panel, results) => {
      const { sets, evidence } = results[s.layer], method = s[panel.side];
      const tokens = Lab.tokens(s.budget, p.n);
      const only = s.head === "all" || sets.length === 1 ? sets : [sets[Math.min(s.head, sets.length - 1)]];
      const counts = p.texts.map((_, i) => only.reduce((sum, mask) => sum + mask[i], 0));
      counts.forEach((count, i) => {
        const kind = count ? `k${Math.ceil(4 * count / only.length)}` : "", token = panel.tokens[i];
        if (token.className !== kind) token.className = kind;
      });
      const whole = sets.filter(mask => p.marked.every(i => mask[i])).length;
      let told = `${method} keeps ${tokens} of ${p.n} tokens.`;
      const of = `${whole} of ${sets.length} set${sets.length > 1 ? "s" : ""}`;
      if (p.marked.length)
        told += ` Layer ${s.layer}: ${Math.round(100 * evidence)} % of the outlined passage, all in ${of}.`;
      if (panel.told.textContent !== told) panel.told.textContent = told;
      panel.text.style.setProperty("--kept", colours[method]);
      if (!panel.list.parentElement.open) return;
      const joined = counts.map((count, i) => count ? p.texts[i] : "\0").join("");
      const pieces = joined.split(/\0+/).filter(piece => piece.trim());
      panel.list.replaceChildren(...pieces.map(piece => made("li", piece)));
    };

    const drawNumbers = (p, s, both, draws) => {
      const at = (results, metric, all) =>
        all ? mean(results.map(one => one[metric])) : results[s.layer][metric];
      for (const row of find("numbers").querySelectorAll("[data-metric]")) {
        const { metric, all } = row.dataset, cells = row.querySelectorAll("td");
        row.hidden = metric === "evidence" && !p.marked.length;
        const chance = draws ? mean(draws.map(one => at(one, metric, all))) : null;
        cells[2].textContent = draws ? chance.toFixed(3) : "…";
        both.forEach((results, i) => {
          const value = at(results, metric, all);
          cells[i].replaceChildren(value.toFixed(3));
          if (draws) cells[i].append(made("small", ` ${signed(value - chance)}`));
        });
        if (!all) row.querySelector("output").textContent = s.layer;
      }
      find("wrote").querySelectorAll("td").forEach((cell, i) => {
        const text = i < 2 ? Lab.written(p, s.sides[i]) : undefined;
        cell.textContent = text !== undefined ? `“${text}”` : i < 2 ? "not recorded here" : "";
      });
      for (const side of SIDES) find(`head-${side}`).textContent = s[side];
    };

    const drawStrip = (p, s, side, results) => {
      const strip = find(`strip-${side}`);
      if (strip.children.length !== p.layers)
        strip.replaceChildren(...results.map((_, l) => Object.assign(made("span", ""), { title: l })));
      strip.style.setProperty("--kept", colours[s[side]]);
      results.forEach((one, l) => {
        const part = p.marked.length ? one.evidence : one.cosine;
        strip.children[l].style.setProperty("--part", `${100 * part}%`);
        strip.children[l].classList.toggle("now", l === s.layer);
      });
    };

    const drawCharts = (s, both, draws, faint) => {
      for (const metric of ["l1", "cosine"]) {
        const line = (results, method, kind) =>
          ({ kind, colour: colours[method], values: results.map(one => one[metric]) });
        const lines = both.map((results, i) => line(results, s[SIDES[i]], SIDES[i]));
        for (const method in faint) lines.push(line(faint[method], method, "faint"));
        if (draws) lines.push({ kind: "random", colour: colours.Random,
          values: draws[0].map((_, l) => mean(draws.map(one => one[l][metric]))) });
        Lab.chart(find(`chart-${metric}`), lines, s.layer, s.whole === "on");
      }
    };

    // All rules with the same controls, once the reader unfolds them.
    const drawAll = (p, s) => {
      if (!find("all").open) return;
      const rows = Object.keys(Lab.METHODS).filter(method => method !== "Own rule").map(method => {
        const side = { ...s.sides[0], method }, results = Lab.results(p, side), row = made("tr", "");
        const means = ["l1", "cosine", "evidence"].map(metric => mean(results.map(one => one[metric])).toFixed(3));
        if (!p.marked.length) means[2] = "–";
        const name = Object.assign(made("th", method), { scope: "row" });
        row.append(name, ...[...means, Lab.written(p, side) ?? "not recorded here"].map(text => made("td", text)));
        return row;
      });
      find("all").querySelector("tbody").replaceChildren(...rows);
    };

    // draws: results of random choices; faint: method -> results. Both may come later.
    view.draw = (p, s, both, draws, faint) => {
      panels.forEach((panel, i) => {
        drawPanel(p, s, panel, both[i]);
        drawStrip(p, s, panel.side, both[i]);
      });
      drawNumbers(p, s, both, draws);
      drawAll(p, s);
      drawCharts(s, both, draws, faint);
    };
    return view;
  };
}
