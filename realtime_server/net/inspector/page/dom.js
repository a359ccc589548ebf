/** Making elements, and copying text. What the database holds becomes text nodes, never HTML. */

/**
 * Make an element.
 *
 * @param {string} tag
 * @param {object} properties of the element; those of `dataset` one by one.
 * @param {...(Node|string)} children
 */
export function element(tag, properties = {}, ...children) {
  const { dataset = {}, ...others } = properties;
  const made = document.createElement(tag);
  Object.assign(made, others);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

export function button(text, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, text);
}

/** Make a button that copies what `text` returns, and says so. */
export function copyButton(label, text) {
  const made = button(label, async () => {
    made.textContent = (await copy(text())) ? "Copied" : "Not copied";
    setTimeout(() => (made.textContent = label), 1_500);
  });
  return made;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // Browsers have no clipboard for pages that came over plain HTTP from another machine.
    const area = element("textarea", { value: text, className: "visually-hidden" });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
