import { type ReactElement, useEffect, useState } from "react";

interface Props {
  /** What it copies; a function is asked when it is pressed. */
  text: string | (() => string);
  children: string;
  /** What a screen reader says, where the text alone is not clear. */
  label?: string;
}

/** Copies a text and says so. */
export function CopyButton({ text, children, label }: Props): ReactElement {
  const [said, setSaid] = useState("");
  useEffect(() => {
    if (!said) return;
    const timer = setTimeout(() => setSaid(""), 2000);
    return () => clearTimeout(timer);
  }, [said]);
  return (
    <>
      <button
        type="button"
        className="sse-small"
        aria-label={label}
        onClick={async () => {
          const done = await copy(typeof text === "string" ? text : text());
          setSaid(
            done ? "Copied" : "Select and copy it by hand: the browser does not let this page.",
          );
        }}
      >
        {children}
      </button>
      <span className="sse-said" role="status">
        {said}
      </span>
    </>
  );
}

async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No clipboard on plain http: the old way still works there.
    const area = document.createElement("textarea");
    area.value = text;
    area.setAttribute("readonly", "");
    area.style.position = "fixed";
    area.style.opacity = "0";
    document.body.append(area);
    area.select();
    const done = document.execCommand?.("copy") ?? false;
    area.remove();
    return done;
  }
}
