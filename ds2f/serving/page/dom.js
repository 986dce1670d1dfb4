// Elements of the page. Text from the server or from names of files is set as text, never as markup.

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element.
 * @param {string} tag
 * @param {object} properties of the element, such as `className`; `attributes` and `dataset` are objects.
 * @param {...(Node|string)} children strings become text.
 */
export function element(tag, { attributes = {}, dataset = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  Object.entries(attributes).forEach(([name, value]) => made.setAttribute(name, value));
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

/** Shows a message in an element of class `problem`, or hides the element. */
export function showProblem(place, message, ...actions) {
  place.replaceChildren(...(message ? [element("p", {}, message), ...actions] : []));
  place.hidden = !message;
}

/** Scrolls a container, which is positioned, to an element in it; the page stays where it is. */
export function reveal(container, { offsetTop, offsetHeight }) {
  const { scrollTop, clientHeight } = container;
  const visible = offsetTop >= scrollTop && offsetTop + offsetHeight <= scrollTop + clientHeight;
  if (!visible) container.scrollTop = offsetTop - clientHeight / 3;
}

/** Says something to screen readers. */
export function announce(message) {
  byId("announcement").textContent = message;
}

/** Seconds as `1:02`, with tenths as `1:02.3`. */
export function clock(seconds, { tenths = false } = {}) {
  const whole = tenths ? Math.floor(seconds * 10) / 10 : Math.floor(seconds);
  const minutes = Math.floor(whole / 60);
  const rest = (whole - 60 * minutes).toFixed(tenths ? 1 : 0).padStart(tenths ? 4 : 2, "0");
  return `${minutes}:${rest}`;
}
