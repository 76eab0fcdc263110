/** Policy `pinned-gateway-image`: the gateway that sees every file is the one that was reviewed. */
import { pinnedImage } from "../providers/versitygw.ts";
import { eachText, type StoragePolicy } from "./rule.ts";

const GATEWAY = "azure-native:app:ContainerApp";
const PATHS = ["template.containers?.image", "template.initContainers?.image"];
const WRONG =
  "is not a pinned image, so a replica that restarts could run another one; " +
  "write its whole version or its digest (gatewayImage in the stack's config)";

export const gatewayImage: StoragePolicy = {
  name: "pinned-gateway-image",
  description: "Images of the gateway have a version or a digest.",
  validateResource: PATHS.map((path) => eachText(GATEWAY, path, isMoving, WRONG)),
};

function isMoving(image: string): boolean {
  return pinnedImage(image) !== undefined;
}
