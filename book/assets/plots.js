// Draws plotly figures over their stills. plotly.js (1.5 MB) is loaded once, when the first figure comes near the view.

let library;

function load() {
  return library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("plotly.min.js", import.meta.url);
    script.onload = () => resolve(window.Plotly);
    script.onerror = reject;
    document.head.append(script);
  });
}

// Text, lines and ground come from the page, so a figure follows the light and dark of the page.
function colors(place) {
  const text = getComputedStyle(place).color;
  const line = getComputedStyle(place).borderTopColor;
  const clear = "rgba(0,0,0,0)";
  return { text, line, base: { paper_bgcolor: clear, plot_bgcolor: clear, "font.color": text } };
}

function recolor(place, Plotly) {
  const { line, base } = colors(place);
  const axes = Object.keys(place.layout).filter((key) => /^[xy]axis\d*$/.test(key));
  const lines = axes.flatMap((axis) => [[`${axis}.gridcolor`, line], [`${axis}.linecolor`, line], [`${axis}.zerolinecolor`, line]]);
  return Plotly.relayout(place, { ...base, ...Object.fromEntries(lines) });
}

async function draw(place) {
  const Plotly = await load();
  const { data, layout, frames } = JSON.parse(place.querySelector("script").textContent);
  delete layout.width;
  delete layout.height;
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  await Plotly.newPlot(place, {
    data, frames,
    layout: { ...layout, autosize: true, transition: calm ? { duration: 0 } : layout.transition },
    config: { responsive: true, displaylogo: false },
  });
  await recolor(place, Plotly);
  place.classList.add("drawn");
  new MutationObserver(() => recolor(place, Plotly)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
}

const near = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) if (isIntersecting) {
    near.unobserve(target);
    draw(target);
  }
}, { rootMargin: "600px" });
document.querySelectorAll("[data-plot]").forEach((place) => near.observe(place));
