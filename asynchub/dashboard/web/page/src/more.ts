/**
 * The second file of the page: what is not on its first screen. See `later.ts`.
 *
 * An exported page, which has no server to fetch it from, has it in itself.
 */

import "./more.css";

export { showBeside, step } from "./beside";
export { Exported, exportedData } from "./exported";
export { help } from "./helping";
export { exports, savePage, savePicture } from "./saving";
export { ask, steer } from "./steering";
export { tryRule, whatIf } from "./trying";
