/** The error that everything here throws. */
export class RetortError extends Error {
  /**
   * code: malformed (a wrong call), bundle_missing, bundle_format, bundle_corrupt, runtime, environment, model or sync.
   */
  constructor(code, message) {
    super(message);
    this.name = "RetortError";
    this.code = code;
  }
}
