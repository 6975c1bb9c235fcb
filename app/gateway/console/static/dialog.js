// A question before a request: what it does, what it needs, its curl, and errors next to their fields.

import { call, newKey, postWithRetries } from "./api.js";
import { command, curl } from "./curl.js";
import { el, setText } from "./elements.js";
import { clearErrors, showError, showProblem } from "./fields.js";

export const textField = (name, label, { hint, ...attributes } = {}) =>
  el("div", {}, el("label", { class: "field" }, label, el("input", { name, maxlength: "500", autocomplete: "off", ...attributes })),
    hint ? el("p", { class: "note" }, hint) : null);

export const selectField = (name, label, options) =>
  el("div", {}, el("label", { class: "field" }, label,
    el("select", { name }, ...options.map(([value, text]) => el("option", { value }, text)))));

// Shows the question and resolves with the server's answer, or with null if the visitor goes back.
//
// `submit(values)` is the label of the button that sends, `check(values)` returns errors by field name, and
// `request(values)` is `[method, path, body]`. With `keyed`, a POST has an Idempotency-Key and is repeated while the server is
// unavailable.
export function ask({ title, lead = [], fields = [], danger = false, keyed = true, submit, check = () => ({}), request }) {
  const { dialog, form, button, message, curls, back } = build(title, lead, fields, danger);
  let key = newKey();
  const values = () => Object.fromEntries(new FormData(form));
  const show = () => {
    setText(button, submit(values()));
    const [method, path, body] = request(values());
    curls.replaceChildren(command(curl(method, path, body, keyed && method === "POST" ? key : ""), title));
  };
  return new Promise((resolve) => {
    let answer = null;
    form.addEventListener("input", () => {
      clearErrors(form);
      message.textContent = "";
      // Other contents are another request.
      key = newKey();
      show();
    });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      clearErrors(form);
      const errors = Object.entries(check(values())).filter(([, text]) => text);
      for (const [name, text] of errors) showError(form.elements[name], text);
      if (errors.length) return form.querySelector("[aria-invalid]").focus();
      button.disabled = true;
      message.textContent = "";
      try {
        const [method, path, body] = request(values());
        answer = keyed && method === "POST"
          ? await postWithRetries(path, body, key, (reason) => { message.textContent = reason; })
          : await call(method, path, { body });
        dialog.close();
      } catch (error) {
        message.textContent = showProblem(form, error);
      } finally {
        button.disabled = false;
      }
    });
    back.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => { dialog.remove(); resolve(answer); }, { once: true });
    document.body.append(dialog);
    show();
    dialog.showModal();
  });
}

// Shows something that is left by the button `done`.
export function tell({ title, lead, done }) {
  const button = el("button", { type: "button", class: "primary", onclick: () => dialog.close() }, done);
  const dialog = el("dialog", { class: "tell", "aria-labelledby": "tell-title" }, el("h2", { id: "tell-title" }, title), ...lead,
    el("div", { class: "buttons" }, button));
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => { dialog.remove(); resolve(); }, { once: true });
    document.body.append(dialog);
    dialog.showModal();
  });
}

function build(title, lead, fields, danger) {
  const button = el("button", { type: "submit", class: danger ? "danger" : "primary" });
  const back = el("button", { type: "button" }, "Back");
  const message = el("p", { class: "message", "data-tone": "bad", role: "alert" });
  const curls = el("div");
  const form = el("form", { novalidate: true }, el("h2", { id: "ask-title" }, title), ...lead, ...fields, message,
    el("details", { class: "more curls" }, el("summary", {}, "curl"), curls), el("div", { class: "buttons" }, button, back));
  return { dialog: el("dialog", { class: "ask", "aria-labelledby": "ask-title" }, form), form, button, message, curls, back };
}
