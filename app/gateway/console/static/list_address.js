// The view of a list in the address of its page: filters and page, the links between pages, and the browser's history.

import { by, setText } from "./elements.js";

// The first page with the same filters and the same sorting.
export const firstPage = (view) => ({ ...view, cursor: "", page: "" });

export class ListAddress {
  #path; #names; #onChange;

  // `names` are the members of a view besides its page; `onChange()` is called after each change. Links in `section` that
  // have a data-view change the view without a request for the page.
  constructor(section, path, names, onChange) {
    [this.#path, this.#names, this.#onChange] = [path, [...names, "cursor", "page"], onChange];
    section.addEventListener("click", (event) => this.#followLink(event));
    addEventListener("popstate", onChange);
  }

  // The view that the address names; members that it lacks are empty.
  get view() {
    return this.#read(location.search);
  }

  // The address of a view.
  of(view) {
    const query = new URLSearchParams(this.#names.filter((name) => view[name]).map((name) => [name, view[name]]));
    return query.size ? `${this.#path}?${query}` : this.#path;
  }

  // Shows another view. `from` is the address that "Newer" leads back to.
  go(view, from = "") {
    history.pushState({ from }, "", this.of(view));
    this.#onChange();
  }

  // Shows the links to other pages; `nextCursor` is empty on the last one. Where the list begins with the oldest, so do its pages.
  showPager(nextCursor, oldestFirst = false) {
    const names = oldestFirst ? ["Oldest", "Older", "Newer"] : ["Newest", "Newer", "Older"];
    for (const [at, id] of ["newest", "newer", "older"].entries()) setText(by(id), names[at]);
    const view = this.view;
    const page = Number(view.page) || 1;
    by("pager").hidden = page === 1 && !nextCursor;
    const places = {
      newest: page > 1 && firstPage(view),
      newer: page > 1 && firstPage(view),
      older: nextCursor && { ...view, cursor: nextCursor, page: String(page + 1) },
    };
    for (const [id, place] of Object.entries(places)) {
      const link = by(id);
      link.hidden = !place || (id === "newer" && !history.state?.from);
      link.dataset.view = "";
      if (place) link.href = this.of(place);
    }
    setText(by("page-number"), `Page ${page}`);
  }

  #read(search) {
    const query = new URLSearchParams(search);
    return Object.fromEntries(this.#names.map((name) => [name, query.get(name) || ""]));
  }

  #followLink(event) {
    const link = event.target.closest("a[data-view]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    if (link.id === "newer" && history.state?.from) history.back();
    else this.go(this.#read(new URL(link.href).search), link.id === "older" ? location.search || this.#path : "");
  }
}
