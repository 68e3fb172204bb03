// Puts the views together: which one is shown, and who is given each state.

import {Chat} from "./chat.js";
import {byId, setShown, setText} from "./dom.js";
import {Events} from "./events.js";
import {showFigures} from "./figures.js";
import {Layers} from "./layers.js";
import {ExpertMap} from "./map.js";
import {Poll} from "./poll.js";
import {Scale} from "./scale.js";
import {startTheme} from "./theme.js";
import {Workers} from "./workers.js";

const VIEWS = ["cluster", "chat"];

function takeToken() {
  const given = /^#token=([A-Za-z0-9_.~-]+)$/.exec(location.hash);
  if (given) history.replaceState(null, "", "#cluster");
  return given ? given[1] : "";
}

function showView() {
  const chosen = VIEWS.find((view) => `#${view}` === location.hash) ?? "cluster";
  for (const view of VIEWS) {
    setShown(byId(view), view === chosen);
    if (view === chosen) byId(`to-${view}`).setAttribute("aria-current", "page");
    else byId(`to-${view}`).removeAttribute("aria-current");
  }
  document.title = `${chosen === "chat" ? "Chat" : "Cluster"} · Caracal console`;
  if (chosen === "cluster") map.draw();
}

function showConnection(state, error) {
  const why = error || (state?.unavailable ? "Redis does not answer" : "") || state?.not_ready || "";
  const bad = Boolean(error || state?.unavailable);
  byId("connection").dataset.state = bad ? "lost" : why ? "waiting" : "serving";
  setText(byId("connection").querySelector(".says"), error ? "not connected" : why ? "not serving" : "serving");
  const warning = [error, state?.unavailable && `Redis does not answer: ${state.unavailable}`, state?.not_ready, state?.warning];
  const text = warning.filter(Boolean).join(" · ");
  setText(byId("warning"), text);
  setShown(byId("warning"), Boolean(text));
}

const map = new ExpertMap();
const workers = new Workers(), layers = new Layers(), events = new Events();
const scale = new Scale(takeToken());
startTheme(byId("theme"), () => map.restyle());

const poll = new Poll((look) => {
  showConnection(look.state, look.error);
  if (look.state === null) return;
  showFigures(look);
  workers.show(look);
  layers.show(look.state);
  events.show(look.events);
  scale.show(look.state);
  map.show(look.placement, look.state);
});

addEventListener("hashchange", showView);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
showView();
poll.look();
const chat = new Chat();
const about = await scale.ask();
if (about) {
  chat.model = about.model;
  setText(byId("model"), about.model);
  setText(byId("version"), about.version);
}
