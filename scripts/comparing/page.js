"use strict";
// Makes the table of pictures a viewer: a wipe under the pointer, and a stage with a slider between any two columns.
(() => {
  const VIEWER = `<dialog id="viewer" aria-label="two pictures, one over the other">
    <header><button data-do="previous" title="previous input (up)">↑</button>
      <button data-do="next" title="next input (down)">↓</button><h2 tabindex="-1" autofocus></h2>
      <button data-do="smaller" title="zoom out (-)">−</button><button data-do="fit" title="whole picture (0)">1×</button>
      <button data-do="larger" title="zoom in (+)">+</button><button data-do="close" title="close (Esc)">✕</button></header>
    <div class="room"><div class="stage"><div class="layer left"><img alt=""></div><div class="layer right"><img alt="">
      </div><div class="handle"></div><span class="tag left"></span><span class="tag right"></span></div></div>
    <footer><div><div class="sides" data-side="left"><b>left</b></div><div class="sides" data-side="right"><b>right</b>
      </div></div><div class="keys"><kbd>←</kbd> <kbd>→</kbd> method · <kbd>↑</kbd> <kbd>↓</kbd> input · <kbd>space</kbd>
      flip · <kbd>shift</kbd>+<kbd>←</kbd> <kbd>→</kbd> slider · <kbd>x</kbd> swap · <kbd>+</kbd> <kbd>−</kbd> or wheel:
      zoom, drag to move</div></footer></dialog>`;
  const find = (selector, within = document) => within.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
  const box = document.createElement("div");
  box.innerHTML = VIEWER;
  const viewer = box.firstElementChild, stage = find(".stage", viewer), room = find(".room", viewer);
  const rows = all(".row"), chips = all("#columns .chip"), compareWith = find("#with");
  const shown = chips.map(() => true);
  const state = {row: 0, left: 0, right: 1, split: 0.5, zoom: 1, x: 0, y: 0};
  const picture = (row, column) => find(`figure[data-column="${column}"] img`, rows[row]);
  const title = column => chips[column].textContent;

  // --- the table: which columns are shown, how large, and the wipe under the pointer

  function layOut() {
    const root = document.documentElement.style, size = Number(find("#size").value);
    root.setProperty("--shown", shown.filter(Boolean).length);
    root.setProperty("--size", `${size}px`);
    root.setProperty("--least", `${size > 256 ? size : Math.min(size, 140)}px`);  // larger ones wrap, others shrink
    for (const figure of all("figure[data-column]")) figure.hidden = !shown[figure.dataset.column];
  }

  chips.forEach((chip, column) => chip.addEventListener("click", () => {
    if (shown[column] && shown.filter(Boolean).length === 1) return;
    shown[column] = !shown[column];
    chip.setAttribute("aria-pressed", shown[column]);
    layOut();
  }));
  find("#size").addEventListener("input", layOut);

  const over = document.createElement("img"), edge = document.createElement("div");
  over.className = "over";
  over.alt = "";
  edge.className = "edge";

  function wipe(event) {
    const link = event.pointerType === "mouse" ? event.target.closest?.(".side-by-side a") : null;
    const column = link?.parentElement.dataset.column;
    const other = link && compareWith.value !== "" && compareWith.value !== column
      ? picture(rows.indexOf(link.closest(".row")), compareWith.value) : null;
    if (!other) {
      over.remove();
      edge.remove();
      return;
    }
    if (over.parentElement !== link) {
      over.src = other.src;
      link.append(over, edge);
    }
    const box = link.getBoundingClientRect();
    link.style.setProperty("--at", `${clamp(event.clientX - box.left, 0, box.width)}px`);
  }
  document.addEventListener("pointermove", wipe);
  document.addEventListener("pointerleave", wipe);

  // --- the viewer

  for (const sides of all(".sides", viewer)) {
    chips.forEach((chip, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = `chip ${chip.dataset.colour}`;
      button.dataset.column = column;
      button.append(...[...chip.childNodes].map(node => node.cloneNode(true)));
      button.addEventListener("click", () => choose(sides.dataset.side, column));
      sides.append(button);
    });
  }

  function choose(side, column) {
    const other = side === "left" ? "right" : "left";
    if (state[other] === column) state[other] = state[side];
    state[side] = column;
    show();
  }

  function show() {
    const name = rows[state.row].dataset.name;
    const heading = find("h2", viewer), counter = document.createElement("span");
    counter.textContent = `${state.row + 1} of ${rows.length}`;
    heading.replaceChildren(name, counter);
    for (const side of ["left", "right"]) {
      const image = picture(state.row, state[side]), target = find(`.layer.${side} img`, viewer);
      if (image) target.src = image.src;
      else target.removeAttribute("src");
      target.alt = find(`.tag.${side}`, viewer).textContent = title(state[side]);
      for (const button of all(`[data-side=${side}] .chip`, viewer)) {
        button.setAttribute("aria-pressed", Number(button.dataset.column) === state[side]);
        button.disabled = !picture(state.row, button.dataset.column);
      }
    }
    for (const step of [-1, 1]) {  // what is likely to be asked for next
      const row = state.row + step;
      for (const column of [state.left, state.right]) {
        const image = rows[row] && picture(row, column);
        if (image) new Image().src = image.src;
      }
    }
    place();
  }

  function place() {
    const image = picture(state.row, state.left) || picture(state.row, state.right);
    const width = Number(image.getAttribute("width")), height = Number(image.getAttribute("height"));
    const scale = Math.min(room.clientWidth / width, room.clientHeight / height);
    const w = width * scale, h = height * scale;
    state.x = clamp(state.x, w * (1 - state.zoom), 0);
    state.y = clamp(state.y, h * (1 - state.zoom), 0);
    stage.style.width = `${w}px`;
    stage.style.height = `${h}px`;
    stage.style.setProperty("--split", state.split);
    for (const layer of all(".layer img", stage)) {
      layer.style.transform = `translate(${state.x}px, ${state.y}px) scale(${state.zoom})`;
      layer.style.imageRendering = state.zoom > 1 && scale * state.zoom >= 6 ? "pixelated" : "auto";
    }
    find("[data-do=fit]", viewer).textContent = `${Number(state.zoom.toFixed(1))}×`;
  }

  function zoom(factor, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
    const before = state.zoom;
    state.zoom = clamp(before * factor, 1, 32);
    state.x = x - (x - state.x) * state.zoom / before;
    state.y = y - (y - state.y) * state.zoom / before;
    place();
  }

  function moveRow(step) {
    state.row = clamp(state.row + step, 0, rows.length - 1);
    show();
  }

  function moveColumn(step) {
    const known = chips.map((_, column) => column).filter(
      column => column !== state.left && (shown[column] || column === state.right) && picture(state.row, column));
    if (known.length === 0) return;
    state.right = known[(known.indexOf(state.right) + step + known.length) % known.length];
    show();
  }

  function slide(split) {
    state.split = clamp(split, 0, 1);
    place();
  }

  function open(row, column) {
    const wanted = compareWith.value === "" ? 0 : Number(compareWith.value);
    const left = picture(row, wanted) ? wanted : 0;
    const first = chips.findIndex((chip, number) => chip.dataset.kind === "method" && number !== left);
    Object.assign(state, {row, left, right: column === left ? Math.max(first, 0) : column, split: 0.5, zoom: 1, x: 0, y: 0});
    document.body.append(viewer);
    viewer.showModal();
    document.body.classList.add("viewing");
    show();
  }
  viewer.addEventListener("close", () => {
    document.body.classList.remove("viewing");
    const link = picture(state.row, state.right)?.parentElement;
    link?.scrollIntoView({block: "nearest"});
    link?.focus({preventScroll: true});
  });
  document.addEventListener("click", event => {
    const link = event.target.closest?.(".side-by-side a");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    open(rows.indexOf(link.closest(".row")), Number(link.parentElement.dataset.column));
  });

  const actions = {
    previous: () => moveRow(-1), next: () => moveRow(1), smaller: () => zoom(1 / 1.5), larger: () => zoom(1.5),
    fit: () => zoom(1 / state.zoom), close: () => viewer.close(),
  };
  for (const button of all("[data-do]", viewer)) button.addEventListener("click", actions[button.dataset.do]);

  const keys = {
    ArrowUp: actions.previous, ArrowDown: actions.next, "-": actions.smaller, "+": actions.larger,
    "=": actions.larger, 0: actions.fit, x: () => choose("left", state.right),
    " ": () => slide(state.split < 0.5 ? 1 : 0),
    ArrowLeft: event => event.shiftKey ? slide(state.split - 0.05) : moveColumn(-1),
    ArrowRight: event => event.shiftKey ? slide(state.split + 0.05) : moveColumn(1),
  };
  viewer.addEventListener("keydown", event => {
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in keys)) return;
    event.preventDefault();
    keys[event.key](event);
  });

  // --- the stage: one finger or the mouse slides (or moves an enlarged picture), two fingers zoom

  const fingers = new Map();
  let dragging = null;
  const at = event => {
    const box = stage.getBoundingClientRect();
    return {x: event.clientX - box.left, y: event.clientY - box.top, width: box.width};
  };
  const apart = () => {
    const [one, two] = [...fingers.values()];
    return {distance: Math.hypot(one.x - two.x, one.y - two.y), x: (one.x + two.x) / 2, y: (one.y + two.y) / 2};
  };
  stage.addEventListener("pointerdown", event => {
    const point = at(event);
    stage.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, point);
    const near = Math.abs(point.x - state.split * point.width) < 28;
    dragging = state.zoom > 1 && !near ? "picture" : "slider";
    if (dragging === "slider" && fingers.size === 1) slide(point.x / point.width);
  });
  stage.addEventListener("pointermove", event => {
    if (!fingers.has(event.pointerId)) return;
    const before = fingers.get(event.pointerId), point = at(event);
    if (fingers.size === 2) {
      const old = apart();
      fingers.set(event.pointerId, point);
      const now = apart();
      zoom(now.distance / Math.max(old.distance, 1), now.x, now.y);
      return;
    }
    fingers.set(event.pointerId, point);
    if (dragging === "slider") return slide(point.x / point.width);
    state.x += point.x - before.x;
    state.y += point.y - before.y;
    place();
  });
  for (const kind of ["pointerup", "pointercancel"]) {
    stage.addEventListener(kind, event => fingers.delete(event.pointerId));
  }
  stage.addEventListener("wheel", event => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), at(event).x, at(event).y);
  }, {passive: false});
  stage.addEventListener("dblclick", event => zoom(state.zoom > 1 ? 1 / state.zoom : 3, at(event).x, at(event).y));
  window.addEventListener("resize", () => viewer.open && place());

  find("#toolbar").hidden = false;
  layOut();
})();
