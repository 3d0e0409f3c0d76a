// React 18 is installed beside 19 as `react18` and `react-dom18`. The alias in vitest.config.ts serves
// what is imported; this serves what the packages, which are CommonJS, require of each other.
import Module from "node:module";

type Resolve = (request: string, ...more: unknown[]) => string;
const module = Module as unknown as { _resolveFilename: Resolve };
const resolve = module._resolveFilename;
module._resolveFilename = (request, ...more) =>
  resolve(request.replace(/^(react|react-dom)(?=\/|$)/, "$118"), ...more);
