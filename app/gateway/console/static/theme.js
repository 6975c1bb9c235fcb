// Before anything is drawn, so that no page flashes in the wrong colours.
(() => {
  const themes = ["auto", "light", "dark"];
  const kept = () => {
    try {
      const theme = localStorage.getItem("theme");
      return themes.includes(theme) ? theme : "auto";
    } catch {
      return "auto";
    }
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const show = (theme) => {
    const scheme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
    document.documentElement.dataset.theme = scheme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${theme}`;
    dispatchEvent(new Event("theme"));
  };
  show(kept());
  dark.addEventListener("change", () => show(kept()));
  addEventListener("DOMContentLoaded", () => {
    show(kept());
    document.getElementById("theme").addEventListener("click", () => {
      const next = themes[(themes.indexOf(kept()) + 1) % themes.length];
      try {
        localStorage.setItem("theme", next);
      } catch {
        // Then it lasts as long as the page.
      }
      show(next);
    });
  });
})();
