// The book's additions to every page: a table that goes on to the right says so and fades there; no line ends between a
// number and its unit; print is always light.

addEventListener("DOMContentLoaded", () => {
  const mark = box => {
    box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 2);
    box.classList.toggle("goes-on", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  };
  for (const box of document.querySelectorAll(".pst-scrollable-table-container")) {
    box.addEventListener("scroll", () => mark(box), { passive: true });
    new ResizeObserver(() => mark(box)).observe(box);
  }
  const texts = document.createTreeWalker(document.querySelector("article") ?? document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode;
    const joined = text.data.replace(/(^|\d) (?=(%|[KMGT]i?B)(?!\w))/g, "$1\u00a0");
    if (joined !== text.data && !text.parentElement.closest("pre, code, script, style")) text.data = joined;
  }
});

const root = document.documentElement;
let shown;
addEventListener("beforeprint", () => { shown = root.dataset.theme; root.dataset.theme = "light"; });
addEventListener("afterprint", () => { root.dataset.theme = shown; });
