// Package lab builds throw-away networks out of network namespaces, breaks them
// in a known way, asks fathom what is wrong and scores the answer.
//
// Data flow: a scenario file (docs/lab.md) → Decode → Scenario → NewPlan, a
// pure list of steps → the engine applies the steps → fathom is asked inside
// the node "host" → judge compares the report with the expectation.
//
// Everything the lab makes is written down in /run/fathom-lab before it is
// made, so that whatever a killed lab leaves behind is removed by the next one.
package lab
