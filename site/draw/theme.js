// Dark or light: what the system says, unless the reader has chosen.

export function theme() {
  const button = document.getElementById("theme"), root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const say = () => button.setAttribute("aria-pressed", dark());
  button.onclick = () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("theme", root.dataset.theme);
    } catch {
      // A browser that stores nothing shows the choice until the page is closed.
    }
    say();
  };
  system.addEventListener("change", say);
  say();
}
