// A justified grid of photos: arrows move, Enter opens. Data comes as text and numbers and never becomes HTML.
const grids = new WeakMap();
const EAGER = 16; // pictures that are fetched before anyone scrolls to them

export default function (component) {
  const { data, parentElement, setTriggerValue } = component;
  const list = parentElement.querySelector(".grid");
  list.style.setProperty("--row", `${data.row}px`);
  list.setAttribute("aria-label", data.label);
  list.classList.toggle("strip", data.strip);
  const state = grids.get(parentElement) ?? {};
  grids.set(parentElement, state);
  state.send = setTriggerValue;
  const shown = JSON.stringify(data.items);
  if (state.shown !== shown) {
    // Another page of results begins at its top.
    const main = list.getRootNode().host?.closest('[data-testid="stMain"]');
    if (state.shown && main && list.getBoundingClientRect().top < 0) main.scrollTo({ top: 0 });
    state.shown = shown;
    const eager = data.strip ? 0 : EAGER; // a page of strips fetches what is in view first
    list.replaceChildren(...data.items.map((item, i) => tile(item, i, state, eager)));
    state.sight?.disconnect();
    state.sight = sight(list);
  }
  list.onkeydown = (event) => move(event, list);
  return () => { list.onkeydown = null; };
}

// Tiles in view whose pictures are still being made say so; those out of view need not move.
function sight(list) {
  const observer = new IntersectionObserver((seen) => {
    for (const { target, isIntersecting } of seen) target.classList.toggle("seen", isIntersecting);
  });
  for (const box of list.children) observer.observe(box);
  return observer;
}

function tile(item, at, state, eager) {
  const shape = Math.min(3, Math.max(0.45, item.width / item.height));
  const box = document.createElement("li");
  box.className = "tile waiting";
  box.style.flex = `${shape} 1 calc(var(--row) * ${shape})`;
  if (window.innerWidth <= 640) box.style.flexBasis = `calc(var(--row) * ${shape * 0.62})`;
  const open = element("button", "open");
  open.type = "button";
  open.tabIndex = at === 0 ? 0 : -1;
  open.dataset.photo = item.id;
  open.setAttribute("aria-label", `Open ${item.name}`);
  open.onclick = () => { state.send("open", item.id); afterwards(box.parentElement, item.id); };
  const image = element("img");
  image.alt = item.alt;
  image.decoding = "async";
  if (at >= eager) image.loading = "lazy";
  image.onload = () => { image.classList.add("there"); box.classList.remove("waiting"); };
  image.onerror = () => { box.classList.add("gone"); box.classList.remove("waiting"); };
  image.src = item.src;
  open.append(image);
  const absent = element("span", "absent");
  absent.append(element("b", "", item.name), element("span", "", "Offline, or no longer there"));
  box.append(open, absent);
  if (item.score !== null) box.append(element("span", "badge score", item.score));
  if (item.more > 0) {
    const more = element("span", "badge more", `+${item.more}`);
    more.title = `${item.more} more nearly like this`;
    box.append(more);
  }
  if (item.like) {
    const like = element("button", "like", "More like this");
    like.type = "button";
    like.tabIndex = -1;
    like.onclick = () => state.send("like", item.id);
    box.append(like);
  }
  return box;
}

// When the large view is closed, the keyboard goes on at the photo that was seen last.
function afterwards(list, id) {
  let seen = false;
  let last = id;
  const watch = new MutationObserver(() => {
    const open = document.querySelector('[role="dialog"]');
    last = Number(new URLSearchParams(location.search).get("photo")) || last;
    seen ||= open !== null;
    if (!seen || open) return;
    watch.disconnect();
    const tile = list.querySelector(`[data-photo="${last}"]`);
    if (tile && document.activeElement === document.body) settle([...list.querySelectorAll(".open")], tile);
  });
  watch.observe(document.body, { childList: true, subtree: true });
  setTimeout(() => { if (!seen) watch.disconnect(); }, 10000);
}

function settle(buttons, target) {
  buttons.forEach((button) => { button.tabIndex = -1; });
  target.tabIndex = 0;
  target.focus();
  target.scrollIntoView({ block: "nearest" });
}

function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

function move(event, list) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const buttons = [...list.querySelectorAll(".open")];
  const here = event.target.closest?.(".tile")?.querySelector(".open");
  const at = buttons.indexOf(here);
  if (at < 0) return;
  const target = {
    ArrowRight: () => buttons[at + 1],
    ArrowLeft: () => buttons[at - 1],
    ArrowDown: () => beyond(buttons, here, 1),
    ArrowUp: () => beyond(buttons, here, -1),
    Home: () => buttons[0],
    End: () => buttons[buttons.length - 1],
  }[event.key]?.();
  if (!target) return;
  event.preventDefault();
  settle(buttons, target);
}

// The tile in the next row, above or below, that is nearest from side to side.
function beyond(buttons, here, direction) {
  const from = here.getBoundingClientRect();
  const middle = from.left + from.width / 2;
  let best = null;
  let bestAt = [Infinity, Infinity];
  for (const button of buttons) {
    const box = button.getBoundingClientRect();
    const rows = Math.round(((box.top - from.top) * direction) / 10);
    if (rows <= 1) continue;
    const aside = Math.abs(box.left + box.width / 2 - middle);
    if (rows < bestAt[0] || (rows === bestAt[0] && aside < bestAt[1])) {
      best = button;
      bestAt = [rows, aside];
    }
  }
  return best;
}
