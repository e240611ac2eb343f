package diagnose

// Rules lists every cause fathom can name, from the bottom layer up. A rule
// that is not on this page does not exist: TestEveryRuleFileIsListed fails.
var Rules = []Rule{}
