import { type ReactElement, useEffect, useState } from "react";

interface Props {
  /** The text to copy. A function is called when the button is pressed; undefined if there is nothing to copy. */
  text: string | (() => string | undefined);
  children: string;
  /** The label for screen readers, if the text alone is not clear. */
  label?: string;
}

/** Copies a text and confirms it. */
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
          const copied = typeof text === "string" ? text : text();
          if (copied === undefined) return;
          const done = await copy(copied);
          setSaid(
            done
              ? "Copied"
              : "Select and copy the text yourself: the browser does not allow this page to copy.",
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
    // Plain http has no clipboard API; the old command still works there.
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
