/**
 * Does with a bucket what authentik and its users' browsers do, and says what does not work and
 * what to do about it.
 */
import { checkBrowserAccess } from "./browser.ts";
import {
  abandonUpload,
  checkHead,
  checkList,
  checkTypes,
  cleanUp,
  uploadLargeFile,
  uploadSmallFile,
} from "./files.ts";
import { checkBucketAccess, checkEndpoint, checkIdentity } from "./key.ts";
import type { CheckResult } from "./report.ts";
import { checkExcessRights } from "./rights.ts";
import { VerifyRun, type Target, type VerifyOptions } from "./run.ts";

export { allPassed, renderResults, type CheckResult } from "./report.ts";
export type { Target, VerifyOptions } from "./run.ts";

/**
 * Verifies a bucket with the settings that authentik gets, and with nothing else. It deletes
 * everything that it creates. Problems of the bucket are in the results and are not thrown.
 */
export async function verify(target: Target, options: VerifyOptions = {}): Promise<CheckResult[]> {
  const run = new VerifyRun(target, options);
  try {
    await checkAll(run);
    run.recordEnd();
  } finally {
    await cleanUp(run);
    run.close();
  }
  return run.results;
}

async function checkAll(run: VerifyRun): Promise<void> {
  const [canReach, hasAccess] = await Promise.all([checkEndpoint(run), checkBucketAccess(run)]);
  if (!canReach || !hasAccess) {
    run.skip("other checks", "skipped until the endpoint and the bucket can be reached");
    return;
  }
  const isUploaded = await uploadSmallFile(run);
  await Promise.all([
    checkIdentity(run),
    checkTypes(run),
    ...(isUploaded ? checkFiles(run) : []),
    checkExcessRights(run),
  ]);
  if (!isUploaded) run.skip("file checks", "no file could be uploaded for them");
}

function checkFiles(run: VerifyRun): Promise<void>[] {
  return [
    uploadLargeFile(run),
    abandonUpload(run),
    checkHead(run),
    checkList(run),
    checkBrowserAccess(run),
  ];
}
