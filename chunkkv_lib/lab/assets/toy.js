/* Chapter 2's prompt of twelve tokens with every number open: who keeps what, and what the answer sees. */
"use strict";
var Lab = globalThis.Lab || (globalThis.Lab = {});

{
  const start = root => {
    const rows = [...root.querySelectorAll("tr[data-query]")].map(row => [...row.querySelectorAll("input")]);
    const read = input => Math.max(0, Math.round(Number(input.value)) || 0);
    const setting = name => Number(root.querySelector(`[data-setting="${name}"]`).value);

    const update = () => {
      const answer = rows.at(-1).map(read), attention = rows.slice(0, -1).map(row => row.map(read));
      const n = answer.length, window = Math.min(setting("window"), n - 1), past = n - window;
      const budget = Math.min(Math.max(setting("budget"), window), n), room = budget - window;
      const votesOf = queries => Float64Array.from({ length: past }, (_, key) =>
        queries.reduce((sum, row) => sum + (row[key] ?? 0), 0));  // a later key has no cell
      const votes = votesOf(attention.slice(past)), columns = votesOf(attention);
      const pooled = Lab.pooled(votes, setting("kernel"));
      const kept = { H2O: Lab.highest(columns, room), SnapKV: Lab.highest(pooled, room),
        ChunkKV: Lab.chunks(votes, room, setting("chunk")) };
      const scores = { H2O: columns, SnapKV: pooled, ChunkKV: votes };
      for (const method in kept) {
        const cells = [...root.querySelectorAll(`tr[data-method="${method}"] td`)];
        let seen = 0;
        for (let key = 0; key < n; key++) {
          const stays = key >= past || kept[method][key] === 1;
          cells[key].textContent = key < past ? scores[method][key] : "–";
          cells[key].className = stays ? "kept" : "";
          if (stays) cells[key].append(Object.assign(document.createElement("b"), { textContent: " ✓" }));
          seen += stays ? answer[key] : 0;
        }
        cells[n].textContent = `${seen} of ${answer.reduce((a, b) => a + b, 0)}`;
      }
      const odd = rows.map((row, i) => [i, row.reduce((sum, input) => sum + read(input), 0)])
        .filter(([, sum]) => sum !== 20)
        .map(([i, sum]) => `${i < n ? `row ${i}` : "the answer"} adds up to ${sum}`);
      const fits = budget === setting("budget") ? "" : ` The budget used is ${budget}.`;
      const wrong = odd.length ? `Not 20: ${odd.join(", ")}.` : "";
      root.querySelector("[role=status]").textContent = wrong + fits;
    };
    root.addEventListener("input", update);
    root.addEventListener("submit", event => event.preventDefault());
    root.addEventListener("reset", () => setTimeout(update));
    root.hidden = false;
    update();
  };

  const all = () => document.querySelectorAll(".lab-toy").forEach(start);
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", all);
  else all();
}
