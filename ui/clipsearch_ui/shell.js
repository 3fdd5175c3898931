// What holds on every page: "/" goes to the search box, and on a phone the menu makes way for the chosen page.
const NARROW = "(max-width: 768px)"; // where Streamlit lays its sidebar over the page

export default function () {
  const listeners = {
    keydown(event) {
      const at = event.composedPath()[0];
      if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
      if (at.matches?.("input, textarea, select, [contenteditable]")) return;
      if (document.querySelector('[role="dialog"]')) return;
      event.preventDefault();
      if (focusSearch()) return;
      document.querySelector('a[href$="/"]')?.click(); // from another page
      const watch = new MutationObserver(() => { if (focusSearch()) watch.disconnect(); });
      watch.observe(document.body, { childList: true, subtree: true });
      setTimeout(() => watch.disconnect(), 10000);
    },
    click(event) {
      if (!event.target.closest?.('[data-testid="stSidebarNavLink"]') || !matchMedia(NARROW).matches) return;
      document.querySelector('[data-testid="stSidebarCollapseButton"] button')?.click();
    },
  };
  for (const [name, listener] of Object.entries(listeners)) document.addEventListener(name, listener);
  return () => {
    for (const [name, listener] of Object.entries(listeners)) document.removeEventListener(name, listener);
  };
}

function focusSearch() {
  const box = document.querySelector(".st-key-q input");
  box?.focus();
  box?.select();
  return Boolean(box);
}
