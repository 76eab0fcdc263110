/** Acts as authentik and its users' browsers do with a bucket, and says what does not work and what to do about it. */
import { browse } from "./browser.ts";
import { abandonUpload, cleanUp, head, identity, list, reach, rights, signIn, upload, uploadInParts } from "./key.ts";
import { Run, type Target, type VerifyOptions } from "./run.ts";
import type { CheckResult } from "./report.ts";

export { isWell, renderResults, type CheckResult } from "./report.ts";
export type { Target, VerifyOptions } from "./run.ts";

/**
 * Verifies a bucket with the settings that authentik gets, and nothing else. What it makes it deletes. It does not throw for
 * what is wrong with the bucket: that is among the results.
 */
export async function verify(target: Target, options: VerifyOptions = {}): Promise<CheckResult[]> {
  const run = new Run(target, options);
  try {
    await check(run);
    run.recordEnd();
  } finally {
    await cleanUp(run);
    run.close();
  }
  return run.results;
}

async function check(run: Run): Promise<void> {
  const [isThere, isOpen] = await Promise.all([reach(run), signIn(run)]);
  if (!isThere || !isOpen) {
    run.skip("all else", "it cannot work before this does");
    return;
  }
  const isUploaded = await upload(run);
  await Promise.all([
    identity(run),
    ...(isUploaded ? [uploadInParts(run), abandonUpload(run), head(run), list(run), browse(run)] : []),
    rights(run),
  ]);
  if (!isUploaded) run.skip("files", "nothing could be uploaded to try them with");
}
