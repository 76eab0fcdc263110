/**
 * The program is `../index.ts`. It starts here because the engine fetches the plugin of every cloud package that it finds
 * below the folder where the program starts, each hundreds of megabytes; from here it finds none, and fetches the chosen
 * provider's alone, when a resource needs it.
 */
export { default } from "../index.ts";
