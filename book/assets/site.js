// What a page needs beyond HTML and CSS. Everything here is an extra: without it the book reads, folds and prints.

const root = document.documentElement;

// Light and dark.
const themeSwitch = document.querySelector(".theme-switch");
themeSwitch.hidden = false;
themeSwitch.addEventListener("click", () => {
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", (event) => {
  if (!localStorage.getItem("theme")) root.dataset.theme = event.matches ? "dark" : "light";
});

// Boxes that overflow can be scrolled with the arrow keys, and fade where there is more to see.
const showMore = (box) => box.classList.toggle("more", box.scrollLeft + box.clientWidth < box.scrollWidth - 1);
function focusOverflowing() {
  for (const box of document.querySelectorAll(".scroll, pre, .math.wide")) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
    showMore(box);
  }
}
addEventListener("scroll", ({ target }) => { if (target.matches?.(".scroll, pre, .math.wide")) showMore(target); }, { capture: true, passive: true });
addEventListener("resize", focusOverflowing);
addEventListener("toggle", focusOverflowing, true);
focusOverflowing();

// Copy buttons on code.
for (const block of document.querySelectorAll(".highlight > pre, code.copy")) {
  if (block.closest(".cell_output")) continue;
  const text = block.textContent.trimEnd();
  const button = Object.assign(document.createElement("button"), { type: "button", className: "copy-button", textContent: "Copy" });
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });
  block.parentElement.classList.add("copyable");
  block.after(button);
}

// The section being read, in the list of sections.
const entries = new Map([...document.querySelectorAll(".page-toc a")].map((link) => [decodeURIComponent(link.hash.slice(1)), link]));
const reading = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) if (isIntersecting) {
    for (const [id, link] of entries) link.classList.toggle("here", id === target.id);
  }
}, { rootMargin: "0px 0px -65% 0px" });
for (const id of entries.keys()) {
  const section = document.getElementById(id);
  if (section) reading.observe(section);
}

// The filter by words on the page of all claims.
const words = document.getElementById("register-words");
if (words) {
  words.closest("label").hidden = false;
  words.addEventListener("input", () => {
    for (const row of document.querySelectorAll(".register tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(words.value.toLowerCase());
    }
  });
}

// Paper cannot be unfolded.
let folded = [];
addEventListener("beforeprint", () => {
  folded = [...document.querySelectorAll("details:not([open])")];
  for (const box of folded) box.open = true;
});
addEventListener("afterprint", () => { for (const box of folded) box.open = false; });
