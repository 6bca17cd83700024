"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let view = 0;       // number of the view that is shown
  let chosen = null;  // key of the package that is shown
  let printing = false;

  // --- small things

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (value === true) node.setAttribute(name, "");
      else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  function bytes(size) {
    if (size === null || size === undefined) return "unknown";
    const units = ["B", "kB", "MB", "GB"];
    let unit = 0;
    while (size >= 1000 && unit < 3) { size /= 1000; unit += 1; }
    return unit ? `${size.toFixed(1)} ${units[unit]}` : `${size} B`;
  }

  function sum(part) {
    const known = part.packages > part.unknown ? bytes(part.bytes) : "";
    return [known, part.unknown ? `${part.unknown} unknown` : ""].filter(Boolean).join(" + ") || "nothing";
  }

  const days = (age) => age === null ? "unknown" : age < 730 ? `${age} days` : `${(age / 365.25).toFixed(1)} years`;
  const now = () => data.views[view];
  const sizeOf = (p) => now().measure === "installed" ? p.installed_size : p.size;
  const source = (p) => p.kind === "pip" ? "pip" : p.channel.split("/").pop() || "conda";
  const compare = (a, b) =>
    a === null || a === undefined ? (b === null || b === undefined ? 0 : 1) : b === null || b === undefined ? -1
      : typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

  const indexes = new Map();
  function index(number) {  // packages by key, and what needs each, of one view
    if (!indexes.has(number)) {
      const byKey = new Map(data.views[number].packages.map((p) => [p.key, p]));
      const above = new Map([...byKey.keys()].map((key) => [key, new Map()]));
      for (const p of byKey.values()) for (const [key, spec] of Object.entries(p.needs)) above.get(key).set(p.key, spec);
      indexes.set(number, { byKey, above });
    }
    return indexes.get(number);
  }

  function link(key, text, className = "link") {
    return make("button", { type: "button", class: className, onclick: () => choose(key, true) }, text);
  }

  // --- tables: sorted by their heads, filtered, long ones cut

  function table(target, columns, rows, { sort = 0, descending = false, cut = 25, filter = "", caption } = {}) {
    let by = sort, down = descending, all = false, words = "";
    const body = make("tbody");
    const heads = columns.map((column, number) => make("th", { class: column.num ? "num" : null, scope: "col" },
      column.plain ? column.name : make("button", { type: "button", onclick: () => {
        down = by === number ? !down : Boolean(column.num);
        by = number;
        fill();
      } }, column.name)));
    const count = make("span", { role: "status" });
    const more = make("button", { type: "button", class: "act", onclick: () => { all = !all; fill(); } });
    function fill() {
      const kept = rows.filter((row) => !words || row.words.toLowerCase().includes(words));
      kept.sort((a, b) => {
        const [one, other] = [a.values[by], b.values[by]];
        const missing = one === null || other === null;  // unknown ones come last, either way round
        return missing ? compare(one, other) : (down ? -1 : 1) * compare(one, other);
      });
      const shown = all ? kept : kept.slice(0, cut);
      body.replaceChildren(...shown.map((row) => make("tr", {}, ...row.cells().map((cell, number) => {
        const td = cell instanceof HTMLTableCellElement ? cell : make("td", {}, cell);
        if (columns[number].num) td.classList.add("num");
        return td;
      }))));
      heads.forEach((head, number) => {
        if (number === by && !columns[number].plain) head.setAttribute("aria-sort", down ? "descending" : "ascending");
        else head.removeAttribute("aria-sort");
      });
      more.hidden = kept.length <= cut;
      more.textContent = all ? `Only the first ${cut}` : `All ${kept.length}`;
      count.textContent = words ? `${kept.length} of ${rows.length}` : "";
    }
    const tools = filter ? make("div", { class: "tools" }, make("input", {
      type: "search", "aria-label": filter, placeholder: filter,
      oninput: (event) => { words = event.target.value.trim().toLowerCase(); fill(); },
    }), count) : null;
    target.replaceChildren(...[tools, make("div", { class: "scroll" }, make("table", { "aria-label": caption },
      make("thead", {}, make("tr", {}, ...heads)), body)), more].filter(Boolean));
    fill();
  }

  const row = (values, cells, words = values.join(" ")) => ({ values, cells, words });

  // --- plots

  const COLOURS = ["#4269d0", "#3ca951", "#b8660f", "#a463f2", "#0f8a8a", "#c2456b", "#6b7785", "#8a6d1d", "#2f6fb0", "#7a4fa3"];

  function colour(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }

  function layout(more) {
    const text = printing ? "#000000" : colour("--text");
    const clear = "rgba(0,0,0,0)";
    return {
      paper_bgcolor: clear, plot_bgcolor: clear, font: { color: text, family: getComputedStyle(document.body).fontFamily },
      margin: { l: 0, r: 0, t: 0, b: 0 }, ...more,
    };
  }

  function draw() {
    const config = { displayModeBar: false, responsive: true };
    const width = printing ? { width: 680, height: 420 } : { autosize: true };
    const [sizes] = data.charts[view].sizes;
    const line = { color: printing ? "#ffffff" : colour("--back"), width: 1 };
    const root = { ...sizes.marker, line };
    const white = { color: "#ffffff" };
    Plotly.react("treemap", [{ ...sizes, marker: root, root: { color: "#59636e" }, textfont: white, outsidetextfont: white, pathbar: { textfont: white } }],
      layout({ treemapcolorway: COLOURS, extendtreemapcolors: false, margin: { l: 0, r: 0, t: 26, b: 0 }, ...width }), config);
    const [ages] = data.charts[view].ages;
    Plotly.react("age-plot", [{ ...ages, marker: { color: COLOURS[0] } }], layout({
      margin: { l: 130, r: 20, t: 6, b: 30 }, yaxis: { autorange: "reversed", ticks: "" }, bargap: .3,
      xaxis: { gridcolor: printing ? "#bbbbbb" : colour("--line"), zeroline: false },
      ...(printing ? { width: 680, height: 220 } : { autosize: true }),
    }), config);
    const map = at("treemap");
    if (!map.dataset.listens) {
      map.dataset.listens = "yes";
      map.on("plotly_treemapclick", (event) => {
        const key = String(event.points[0].id).split("/")[2];
        if (key) choose(key, true);
        return !key;  // a requirement opens in the treemap, a package below it
      });
    }
  }

  // --- one view

  function cards() {
    const packages = now().packages;
    const flagged = (flag) => packages.filter((p) => p.flags[0] === flag).length;
    const broken = now().bounds.filter((b) => b.broken.length).length;
    const ages = packages.map((p) => p.age_days).filter((age) => age !== null).sort((a, b) => a - b);
    const half = ages.length >> 1;
    const median = ages.length ? Math.round(ages.length % 2 ? ages[half] : (ages[half - 1] + ages[half]) / 2) : null;
    const entries = [
      [packages.length, `packages, ${packages.filter((p) => p.kind === "pip").length} from pip`],
      [sum(now().total), now().measure === "installed" ? "on the disk" : "to download"],
      [flagged("nvidia"), "under NVIDIA's terms"],
      [flagged("gpl") + flagged("lgpl"), "under GPL or LGPL"],
      [flagged("unknown"), "of unknown licence", flagged("unknown") > 0],
      broken ? [broken, "outside their bounds", true] : ["all", "within floors and bounds"],
      [days(median), "median age"],
    ];
    at("cards").replaceChildren(...entries.map(([value, words, bad]) =>
      make("li", { class: bad ? "bad" : null }, make("b", {}, String(value)), make("span", {}, words))));
  }

  function sizeTables() {
    const roots = now().roots, most = Math.max(1, ...now().requirements.map((r) => r.counted.bytes));
    table(at("by-requirement"), [
      { name: "requirement" }, { name: "counted", num: true }, { name: "share", plain: true },
      { name: "alone", num: true }, { name: "in all", num: true }, { name: "packages", num: true }, { name: "where" },
    ], now().requirements.map((item) => {
      const root = roots[item.root];
      return row(
        [root.spec, item.counted.bytes, null, item.alone.bytes, item.in_all.bytes, item.counted.packages, root.where],
        () => [link(root.key, root.spec), sum(item.counted),
          make("span", { class: "bar", style: `width:${(item.counted.bytes / most * 7).toFixed(2)}rem` }),
          sum(item.alone), sum(item.in_all), String(item.counted.packages), root.where || root.kind]);
    }), { sort: 1, descending: true, cut: 12, caption: "Sizes by requirement" });
    table(at("by-package"), [
      { name: "package" }, { name: "version" }, { name: "from" }, { name: "size", num: true }, { name: "nearest requirement" },
    ], now().packages.map((p) => row([p.name, p.version, source(p), sizeOf(p), roots[p.root].spec],
      () => [link(p.key, p.name), p.version, source(p), bytes(sizeOf(p)), link(roots[p.root].key, roots[p.root].spec)])),
    { sort: 3, descending: true, cut: 15, filter: "Filter packages", caption: "Sizes by package" });
  }

  function licenceParts() {
    const packages = now().packages;
    at("flags").replaceChildren(...Object.entries(data.licence_flags).map(([flag, words]) => {
      const several = packages.filter((p) => p.flags[0] === flag);
      return several.length ? make("div", { class: `flag ${flag}` }, make("h3", {}, `${words.name}: ${several.length}`),
        make("span", { class: "note" }, words.meaning),
        make("ul", { class: "chips" }, ...several.map((p) => make("li", {}, link(p.key, p.name, "node"))))) : null;
    }).filter(Boolean));
    const by = new Map();
    for (const p of packages) by.set(p.licence, [...(by.get(p.licence) || []), p]);
    table(at("by-licence"), [{ name: "licence" }, { name: "packages", num: true }, { name: "what to know" }],
      [...by].map(([licence, several]) => row([licence, several.length, several[0].flags.join(" ")], () => [
        licence || "unknown", String(several.length),
        several[0].flags.map((flag) => data.licence_flags[flag].name).join(", ")])),
      { sort: 1, descending: true, cut: 12, caption: "Licences" });
  }

  function boundTable() {
    table(at("by-bound"), [
      { name: "holds" }, { name: "package" }, { name: "version" }, { name: "floor" }, { name: "bounds", plain: true }, { name: "why", plain: true },
    ], now().bounds.map((b, number) => {
      const state = b.package === null ? "-" : b.broken.length ? "✗ broken" : "✓";
      return row([b.broken.length ? -1 : number, b.name, b.version, b.floor], () => [
        make("span", { class: b.broken.length ? "broken" : "ok" }, state), b.package ? link(b.package, b.name) : b.name,
        b.version || "not in it", b.floor ? `>=${b.floor}` : "", b.bounds.map((one) => one.bound).join(", "),
        b.bounds.length ? make("details", {}, make("summary", {}, b.bounds.map((one) => one.id).join(", ")),
          ...b.bounds.map((one) => make("p", {}, one.why))) : b.role]);
    }), { cut: 60, caption: "Floors and bounds" });
  }

  function ageTable() {
    at("age-note").textContent = `Days since each package was built, as of ${data.as_of}. Of pip's files: since they were uploaded.`;
    table(at("by-age"), [{ name: "package" }, { name: "version" }, { name: "built" }, { name: "age", num: true }],
      now().packages.map((p) => row([p.name, p.version, p.built, p.age_days],
        () => [link(p.key, p.name), p.version, p.built || "unknown", days(p.age_days)])),
      { sort: 3, descending: true, cut: 10, filter: "Filter packages", caption: "Ages of packages" });
  }

  function beside() {
    const section = at("beside");
    section.hidden = data.views.length < 2;
    if (section.hidden) return;
    const names = new Map();
    data.views.forEach((one, number) => one.packages.forEach((p) => {
      if (!names.has(p.key)) names.set(p.key, { name: p.name, found: data.views.map(() => null) });
      names.get(p.key).found[number] = p;
    }));
    const text = (p) => p ? p.version + (p.kind === "pip" ? " (pip)" : "") : null;
    const rows = [...names].map(([key, { name, found }]) => {
      const texts = found.map(text);
      const counts = texts.filter(Boolean).reduce((by, one) => by.set(one, (by.get(one) || 0) + 1), new Map());
      const [usual] = [...counts].sort((a, b) => b[1] - a[1])[0];
      const differs = counts.size > 1;
      return { differs, ...row([name, ...texts], () => [
        index(view).byKey.has(key) ? link(key, name) : name,
        ...texts.map((one) => make("td", { class: one !== null && one !== usual ? "differs" : null }, one || "–"))]) };
    });
    table(at("by-view"), [{ name: "package" }, ...data.views.map((one) => ({ name: one.label }))],
      rows.filter((one) => one.differs || !at("differ").checked),
      { cut: 20, filter: "Filter packages", caption: "Versions side by side" });
  }

  function show(number) {
    view = number;
    at("views").querySelectorAll("input").forEach((input, i) => { input.checked = i === number; });
    const one = now();
    at("about").textContent = `${one.source}${one.variant ? "" : `, ${one.platform}`}`
      + (one.lock_sha256 ? `, lock SHA-256 ${one.lock_sha256.slice(0, 16)}…` : "");
    at("measure").textContent = (one.measure === "installed" ? "Bytes of the files on the disk." : "Bytes of the archives to download.")
      + (one.total.unknown ? ` ${one.total.unknown} of unknown size are not drawn.` : "")
      + " In the treemap, click goes deeper; a package opens below.";
    at("shared").textContent = data.shared;
    cards(); sizeTables(); licenceParts(); boundTable(); ageTable(); beside(); draw();
    if (chosen && index(view).byKey.has(chosen)) choose(chosen, false);
    else { chosen = null; at("package").hidden = true; }
  }

  // --- why is this here

  function chains(key) {  // a shortest one from each requirement that leads to it, the shortest first
    const { above } = index(view);
    const next = new Map([[key, null]]), queue = [key];
    for (let i = 0; i < queue.length; i += 1) {
      for (const upper of [...above.get(queue[i]).keys()].sort()) {
        if (!next.has(upper)) { next.set(upper, queue[i]); queue.push(upper); }
      }
    }
    return now().roots.filter((root) => next.has(root.key)).map((root) => {
      const path = [];
      for (let step = root.key; step !== null; step = next.get(step)) path.push(step);
      return { root, path };
    }).sort((a, b) => a.path.length - b.path.length);
  }

  function expandable(items, cut, draw_) {
    const list = make("ol", { class: "plain", style: "list-style:none;padding:0;margin:0" });
    const fill = (all) => list.replaceChildren(...(all ? items : items.slice(0, cut)).map((item) => make("li", {}, draw_(item))),
      ...(items.length > cut && !all ? [make("li", {}, make("button", {
        type: "button", class: "act", onclick: () => { fill(true); list.querySelectorAll("li")[cut].querySelector("button").focus(); },
      }, `${items.length - cut} more`))] : []));
    fill(false);
    return list;
  }

  function chainOf({ root, path }) {
    const { byKey } = index(view);
    return make("ul", { class: "chain" }, ...path.map((key, number) => make("li", {},
      key === chosen ? make("span", { class: "node here" }, number ? byKey.get(key).name : root.spec)
        : link(key, number ? byKey.get(key).name : root.spec, number ? "node" : "node root"))));
  }

  function map(key) {
    const { byKey, above } = index(view);
    const size = (k) => sizeOf(byKey.get(k)) || 0;
    const order = (keys) => keys.sort((a, b) => size(b) - size(a) || a.localeCompare(b));
    const box = make("div", { class: "map" });
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("aria-hidden", "true");
    const here = make("span", { class: "node here" }, byKey.get(key).name);
    const column = (keys, specs, title) => {
      const part = make("div", { class: "column", role: "group", "aria-label": title });
      const fill = (all) => {
        const shown = all ? keys : keys.slice(0, 12);
        part.replaceChildren(make("span", { class: "title" }, `${title}: ${keys.length || "nothing"}`), ...shown.map((k) => {
          const node = link(k, byKey.get(k).name, "node");
          node.title = specs(k);
          node.append(make("small", {}, ` ${bytes(sizeOf(byKey.get(k)))}`));
          return node;
        }), ...(keys.length > shown.length
          ? [make("button", { type: "button", class: "act", onclick: () => { fill(true); lines(); } }, `${keys.length - shown.length} more`)] : []));
      };
      fill(false);
      return part;
    };
    const up = order([...above.get(key).keys()]), down = order(Object.keys(byKey.get(key).needs));
    const left = column(up, (k) => `${byKey.get(k).name} needs ${above.get(key).get(k)}`, "needed by");
    const right = column(down, (k) => `needs ${byKey.get(key).needs[k]}`, "needs");
    box.append(svg, left, make("div", { class: "column" }, here), right);
    function lines() {
      const frame = box.getBoundingClientRect(), middle = here.getBoundingClientRect();
      svg.replaceChildren(...[[left, -1], [right, 1]].flatMap(([part, side]) => [...part.querySelectorAll(".node")].map((node) => {
        const end = node.getBoundingClientRect();
        const [x1, y1] = [(side < 0 ? middle.left : middle.right) - frame.left, (middle.top + middle.bottom) / 2 - frame.top];
        const [x2, y2] = [(side < 0 ? end.right : end.left) - frame.left, (end.top + end.bottom) / 2 - frame.top];
        const bend = (x1 + x2) / 2;
        const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
        path.setAttribute("d", `M${x1},${y1} C${bend},${y1} ${bend},${y2} ${x2},${y2}`);
        return path;
      })));
    }
    new ResizeObserver(lines).observe(box);
    return box;
  }

  function choose(key, move) {
    const p = index(view).byKey.get(key);
    if (!p) return;
    chosen = key;
    const found = chains(key), own = found.filter((chain) => chain.path.length === 1).map((chain) => chain.root);
    const facts = [
      ["from", p.kind === "pip" ? "a package index, by pip" : `${p.channel}/${p.subdir}`],
      ["build", p.build], ["archive", bytes(p.size)],
      ["on the disk", p.installed_size === null ? null : bytes(p.installed_size)],
      ["licence", `${p.licence || "unknown"}${p.flags.length ? ` — ${p.flags.map((f) => data.licence_flags[f].name).join(", ")}` : ""}`],
      ["built", p.built ? `${p.built}, ${days(p.age_days)} ago` : "unknown"], ["SHA-256", p.sha256],
    ].filter(([, value]) => value);
    const reasons = own.map((root) => `${root.kind}${root.where ? ` in ${root.where}` : ""}: ${root.spec}${root.comment ? ` (${root.comment})` : ""}`);
    at("package").replaceChildren(
      make("h3", { id: "package-name" }, `${p.name} ${p.version}`),
      make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", {}, name), make("dd", { class: /SHA|build|from/.test(name) ? "mono" : null }, value)])),
      make("h4", {}, "Why is this here"),
      ...reasons.map((text) => make("p", {}, text)),
      found.length > own.length ? expandable(found.filter((chain) => chain.path.length > 1), 6, chainOf)
        : own.length ? make("p", { class: "note" }, "No other requirement leads to it.") : null,
      make("h4", {}, "Around it"), map(key));
    at("package").hidden = false;
    at("said").textContent = `${p.name}: ${found.length} requirement${found.length === 1 ? "" : "s"} lead${found.length === 1 ? "s" : ""} to it`;
    at("search").value = p.name;
    if (move) {
      const hash = `#${encodeURIComponent(now().label)}/${encodeURIComponent(key)}`;
      if (location.hash !== hash) history.pushState(null, "", hash);
      at("package").scrollIntoView({ block: "start" });
      at("package").focus({ preventScroll: true });
    }
  }

  // --- the search box: a combobox with a list

  const box = at("search"), hits = at("hits");
  let active = -1;

  function find(words) {
    const wanted = words.trim().toLowerCase();
    if (!wanted) return [];
    const rank = (p) => p.name.toLowerCase() === wanted ? 0 : p.name.toLowerCase().startsWith(wanted) ? 1 : 2;
    return now().packages.filter((p) => p.name.toLowerCase().includes(wanted))
      .sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name)).slice(0, 40);
  }

  function close() { hits.hidden = true; active = -1; box.setAttribute("aria-expanded", "false"); box.removeAttribute("aria-activedescendant"); }

  function mark(number) {
    const options = [...hits.children];
    active = options.length ? (number + options.length) % options.length : -1;
    options.forEach((option, i) => option.setAttribute("aria-selected", String(i === active)));
    if (active < 0) return;
    box.setAttribute("aria-activedescendant", options[active].id);
    options[active].scrollIntoView({ block: "nearest" });
  }

  function suggest() {
    const found = find(box.value);
    hits.replaceChildren(...found.map((p, number) => make("li", {
      role: "option", id: `hit-${number}`, "aria-selected": "false", "data-key": p.key,
      onmousedown: (event) => { event.preventDefault(); close(); choose(p.key, true); },
    }, p.name, make("small", {}, `${p.version}, ${bytes(sizeOf(p))}`))));
    hits.hidden = !found.length;
    box.setAttribute("aria-expanded", String(Boolean(found.length)));
    at("said").textContent = box.value.trim() ? (found.length ? `${found.length}${found.length === 40 ? " or more" : ""} found` : `No package of that name in ${now().label}`) : "";
    active = -1;
    if (found.length) mark(0);
  }

  box.addEventListener("input", suggest);
  box.addEventListener("blur", close);
  box.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (hits.hidden) suggest(); else mark(active + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter" && active >= 0) {
      event.preventDefault();
      const { key } = hits.children[active].dataset;
      close();
      choose(key, true);
    } else if (event.key === "Escape") close();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !event.ctrlKey && !event.metaKey && !event.altKey && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      box.focus();
      box.select();
    }
  });

  // --- start

  function follow() {  // the address names a view and a package
    const [label, key] = location.hash.slice(1).split("/").map(decodeURIComponent);
    const number = data.views.findIndex((one) => one.label === label);
    if (number < 0 || !key) return;
    if (number !== view) show(number);
    choose(key, false);
    at("package").scrollIntoView({ block: "start" });
  }

  at("views").append(...data.views.map((one, number) => make("label", {},
    make("input", { type: "radio", name: "view", value: number, onchange: () => show(number) }), one.label)));
  at("views").hidden = data.views.length < 2;
  at("differ").addEventListener("change", beside);
  at("made").textContent = `Made by satenv report, version ${data.tool_version}; ages as of ${data.as_of}. Nothing of this page comes from a network.`;
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => {  // on paper nothing can be opened
    printing = true;
    document.querySelectorAll("details:not([open])").forEach((part) => { part.dataset.folded = "yes"; part.open = true; });
    draw();
  });
  addEventListener("afterprint", () => {
    printing = false;
    document.querySelectorAll("details[data-folded]").forEach((part) => { delete part.dataset.folded; part.open = false; });
    draw();
  });
  addEventListener("popstate", follow);
  show(0);
  follow();
})();
