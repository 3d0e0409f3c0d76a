/**
 * Creates a parser of an event stream [HTML spec 9.2.6]. Feed it the decoded text without byte order mark, in
 * any pieces. It throws if an event has more than `maxSize` characters. It calls `onId` at the end of each block
 * with an `id`, before its event. An empty id clears the position.
 */
export function createParser(
  maxSize: number,
  onId: (id: string) => void,
  onEvent: (type: string, data: string) => void,
  onRetry: (ms: number) => void,
): (chunk: string) => void {
  // The pieces of the unfinished line. Joining them for each chunk would cost quadratic time.
  let parts: string[] = [];
  let partsSize = 0;
  let afterCR = false; // a line feed that follows is a part of the same line end
  let id: string | undefined;
  let type = "";
  let data: string | undefined;

  function parseLine(line: string) {
    if (!line) {
      if (id !== undefined) onId(id);
      if (data !== undefined) onEvent(type || "message", data);
      id = data = undefined;
      type = "";
      return;
    }
    const colon = `${line}:`.indexOf(":");
    const field = line.slice(0, colon);
    const value = line.slice(colon + (line[colon + 1] === " " ? 2 : 1));
    if (field === "data") data = data === undefined ? value : `${data}\n${value}`;
    else if (field === "event") type = value;
    else if (field === "id" && !value.includes("\0")) id = value;
    else if (field === "retry" && /^\d+$/.test(value)) onRetry(Number(value));
  }

  return (chunk) => {
    if (!chunk) return;
    const text = afterCR && chunk[0] === "\n" ? chunk.slice(1) : chunk;
    afterCR = chunk.endsWith("\r");
    const lines = text.split(/\r\n|[\r\n]/);
    const last = lines.pop() as string;
    if (lines.length) {
      lines[0] = parts.join("") + lines[0];
      parts = [];
      partsSize = 0;
      for (const line of lines) {
        parseLine(line);
        checkSize();
      }
    }
    parts.push(last);
    partsSize += last.length;
    checkSize();
  };

  function checkSize() {
    if (partsSize + (data?.length ?? 0) > maxSize)
      throw new Error(`an event of more than ${maxSize} characters`);
  }
}
