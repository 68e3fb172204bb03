// Light, dark, or what the system says.

const CHOICES = ["system", "light", "dark"];

function stored() {
  try {
    return localStorage.getItem("caracal-theme");
  } catch {
    return null; // storage is off
  }
}

export function startTheme(button, changed) {
  let chosen = CHOICES.includes(stored()) ? stored() : "system";
  const apply = () => {
    if (chosen === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    button.textContent = `Theme: ${chosen}`;
    changed();
  };
  button.addEventListener("click", () => {
    chosen = CHOICES[(CHOICES.indexOf(chosen) + 1) % CHOICES.length];
    try {
      localStorage.setItem("caracal-theme", chosen);
    } catch {
      // it holds for this page alone
    }
    apply();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  apply();
}
