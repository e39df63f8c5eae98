// Typesets formulas for the book: one JSON request per line in, one JSON answer per line out.
// Request {tex, display}; answer {svg, mathml, glyphs} or {error}.
// Glyph outlines come apart from the picture, so that a page carries each outline once.
const readline = require("readline");

const packages = ["base", "ams", "newcommand", "html", "boldsymbol", "mathtools", "cancel", "textmacros"];

require("mathjax").init({
  loader: { load: ["input/tex-full", "output/svg", "adaptors/liteDOM"] },
  tex: { packages, tags: "none", formatError: (_jax, error) => { throw error; } },
  svg: { fontCache: "global" },
}).then((MathJax) => {
  const adaptor = MathJax.startup.adaptor;
  const cache = MathJax.startup.output.fontCache;

  const outlines = () => Object.fromEntries(adaptor.childNodes(cache.getCache()).map(
    (path) => [shortId(adaptor.getAttribute(path, "id")), adaptor.getAttribute(path, "d")]));

  function typeset({ tex, display }) {
    try {
      cache.clearCache();
      const svg = slimSvg(adaptor.innerHTML(MathJax.tex2svg(tex, { display })));
      return { svg, mathml: slimMathml(MathJax.tex2mml(tex, { display })), glyphs: outlines() };
    } catch (error) {
      return { error: error.message };
    }
  }

  readline.createInterface({ input: process.stdin }).on("line", (line) => {
    console.log(JSON.stringify(typeset(JSON.parse(line))));
  });
}).catch((error) => { console.error(error.message); process.exit(1); });

function shortId(id) {
  return id.replace("MJX-TEX-", "g-");
}

// A third of MathJax's output describes how it was made; a page has no use for that.
function slimSvg(svg) {
  return svg
    .replace(/ (xmlns|xmlns:xlink|data-[\w-]+|role|focusable)="[^"]*"/g, "")
    .replace(/class=" /g, 'class="')
    .replace(/xlink:href="#MJX-TEX-/g, 'href="#g-')
    .replace(/<g( transform="[^"]*")?><use( href="[^"]*")><\/use><\/g>/g, "<use$2$1></use>");
}

function slimMathml(mathml) {
  return mathml.replace(/ (xmlns|data-[\w-]+|class)="[^"]*"/g, "").replace(/\n\s*/g, "");
}
