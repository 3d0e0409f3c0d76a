import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { resolve } from "../src/page.js";
import { SSETestComponent } from "../src/test-component/index.js";
import "../src/test-component.css";
import "./page.css";

/** The settings of the page. The server that serves the page has them at a path beside it. */
interface Config {
  stream: string;
  api?: string;
}

async function load(): Promise<Config> {
  const response = await fetch(resolve("config.json"));
  if (!response.ok) throw new Error(`config.json answered ${response.status}`);
  return response.json();
}

function Page({ config }: { config: Config }) {
  return (
    <main>
      <header>
        <h1>SSE test</h1>
        <p>One stream of this site: its connection, what arrives, and a form to send.</p>
      </header>
      <SSETestComponent url={config.stream} api={config.api} />
    </main>
  );
}

const root = createRoot(document.getElementById("root") as HTMLElement);
load().then(
  (config) =>
    root.render(
      <StrictMode>
        <Page config={config} />
      </StrictMode>,
    ),
  (error) =>
    root.render(<p role="alert">This page could not load its settings: {String(error)}</p>),
);
