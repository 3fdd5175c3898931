// What holds on every page, from before there is one. "/" goes to the search box; what is typed after it is kept
// until the box is there. On a phone the menu makes way for the chosen page.
(() => {
  const NARROW = "(max-width: 768px)"; // where Streamlit lays its sidebar over the page
  const PATIENCE = 10_000; // milliseconds for which a box is waited for
  const SETTLED = 50; // milliseconds
  let waiting = null; // typed since "/", while there is no box

  document.addEventListener("keydown", (event) => {
    const at = event.composedPath()[0];
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (at.matches?.("input, textarea, select, [contenteditable]")) { waiting?.end(); return; }
    if (waiting ? waiting.take(event.key) : event.key === "/" && !document.querySelector('[role="dialog"]')) {
      event.preventDefault();
      if (!waiting) goToBox();
    }
  });

  document.addEventListener("click", (event) => {
    if (!event.target.closest?.('[data-testid="stSidebarNavLink"]') || !matchMedia(NARROW).matches) return;
    document.querySelector('[data-testid="stSidebarCollapseButton"] button')?.click();
  });

  function goToBox() {
    const box = searchBox();
    if (box) { box.focus(); box.select(); return; }
    let typed = "";
    let followed = false;
    const look = () => {
      const found = searchBox();
      if (found) { end(); fill(found, typed); return; }
      const link = document.querySelector('a[href$="/"]'); // from another page
      if (followed || !link || location.pathname === "/") return;
      followed = true;
      link.click();
    };
    const watch = new MutationObserver(look);
    const end = () => { watch.disconnect(); waiting = null; };
    const take = (key) => {
      if (key === "Escape") { end(); return true; }
      if (key === "Backspace") typed = typed.slice(0, -1);
      else if (key === "Enter") typed += "\n";
      else if (key.length === 1) typed += key;
      else return false;
      return true;
    };
    waiting = { take, end };
    watch.observe(document, { childList: true, subtree: true });
    setTimeout(() => { if (waiting?.take === take) end(); }, PATIENCE);
    look();
  }

  function searchBox() {
    return document.querySelector(".st-key-q input");
  }

  // As if it were typed now: the page's own script hears of it.
  function fill(box, typed) {
    box.focus();
    box.select();
    const [words] = typed.split("\n");
    if (words) document.execCommand("insertText", false, words);
    if (words === typed) return;
    setTimeout(() => { // once the page's script has taken the words in
      for (const kind of ["keydown", "keypress", "keyup"]) {
        box.dispatchEvent(new KeyboardEvent(kind, { key: "Enter", code: "Enter", keyCode: 13, bubbles: true }));
      }
    }, SETTLED);
  }
})();
