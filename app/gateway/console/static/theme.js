// Runs before the page is drawn, so that it never flashes in the wrong colours.
(() => {
  const themes = ["auto", "light", "dark"];
  const savedTheme = () => {
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
  show(savedTheme());
  dark.addEventListener("change", () => show(savedTheme()));
  addEventListener("DOMContentLoaded", () => {
    show(savedTheme());
    document.getElementById("theme").addEventListener("click", () => {
      const next = themes[(themes.indexOf(savedTheme()) + 1) % themes.length];
      try {
        localStorage.setItem("theme", next);
      } catch {
        // Storage is blocked: the choice lasts until the page is left.
      }
      show(next);
    });
  });
})();
