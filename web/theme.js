// Runs before the first paint, so that a chosen theme does not flash.
try {
  const theme = localStorage.getItem("vstar.theme");
  if (theme) document.documentElement.dataset.theme = JSON.parse(theme);
} catch {
  // Without storage, the system's theme is used.
}
