// For tests of pages: what overlaps, is cut, or makes the page scroll sideways. Returns messages. Of SVG, text counts.
() => {
  const found = [];
  const name = (node) => `${node.tagName.toLowerCase()}${node.id ? `#${node.id}` : ""} "${node.textContent.trim().slice(0, 30)}"`;
  const root = document.documentElement;
  if (root.scrollWidth > root.clientWidth) found.push(`the page is ${root.scrollWidth} wide in ${root.clientWidth}`);
  const left = ".visually-hidden, .skip, .timeline *, .queue, .number";
  const leaves = [...document.body.querySelectorAll("*")].filter(
    (node) =>
      !node.closest(left.replace(", .queue", "")) &&
      !["OPTION", "SCRIPT"].includes(node.tagName) &&
      (!node.closest("svg") || node.tagName === "text") &&
      node.checkVisibility() &&
      [...node.children].every((child) => child.matches(".number")) &&
      node.getBoundingClientRect().height > 0,
  );
  // The part of a box that its scrolling ancestors show; sideways nothing may be hidden.
  const shown = (node, { left, width, top, bottom }) => {
    for (let each = node.parentElement; each; each = each.parentElement) {
      if (getComputedStyle(each).overflowY !== "auto") continue;
      const view = each.getBoundingClientRect();
      [top, bottom] = [Math.max(top, view.top), Math.min(bottom, view.bottom)];
    }
    return new DOMRect(left, top, width, Math.max(0, bottom - top));
  };
  const boxes = leaves.flatMap((node) => [...node.getClientRects()].map((box) => ({ node, box: shown(node, box) })));
  for (const { node, box } of boxes) {
    const card = node.closest(".card")?.getBoundingClientRect() ?? { left: 0, right: root.clientWidth };
    if (box.left < card.left - 1 || box.right > card.right + 1) found.push(`${name(node)} leaves its card`);
    const style = getComputedStyle(node);
    const cuts = style.overflowX !== "visible" && style.overflowX !== "auto" && node.tagName !== "TEXTAREA";
    if (cuts && node.scrollWidth > node.clientWidth + 1) found.push(`${name(node)} is cut`);
    if (["BUTTON", "SELECT"].includes(node.tagName) && node.scrollWidth > node.clientWidth + 1) found.push(`${name(node)} is cut`);
  }
  boxes.forEach((one, i) =>
    boxes.slice(i + 1).forEach((other) => {
      if (one.node === other.node || one.node.contains(other.node) || other.node.contains(one.node)) return;
      const width = Math.min(one.box.right, other.box.right) - Math.max(one.box.left, other.box.left);
      const height = Math.min(one.box.bottom, other.box.bottom) - Math.max(one.box.top, other.box.top);
      if (width > 1 && height > 2) found.push(`${name(one.node)} overlaps ${name(other.node)}`);
    }),
  );
  for (const node of document.querySelectorAll("svg text")) {
    const [box, drawing] = [node, node.closest("svg")].map((each) => each.getBoundingClientRect());
    const inside = box.left >= drawing.left - 1 && box.right <= drawing.right + 1 && box.top >= drawing.top - 1 && box.bottom <= drawing.bottom + 1;
    if (!inside) found.push(`${name(node)} leaves its drawing`);
  }
  const placed = [...document.querySelectorAll(".placed:not(.bar)")].map((node) => node.getBoundingClientRect());
  placed.forEach((one, i) =>
    placed.slice(i + 1).forEach((other) => {
      if (one.top === other.top && Math.min(one.right, other.right) > Math.max(one.left, other.left)) found.push("words overlap");
    }),
  );
  for (const node of document.querySelectorAll(".placed:not(.bar)")) {
    if (node.scrollWidth > node.clientWidth + 1) found.push(`${name(node)} is cut`);
  }
  return found;
}
