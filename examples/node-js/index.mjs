// Both generations of npm's client, side by side. Each file runs alone, too.
import "./topics.mjs";
import "./bindings.mjs";
