Feature: Failures
  An engine that dies breaks the stream of its task, says so, and comes back by itself.

  Background:
    Given the workstation "shared"
    And the engine of pool "frail" dies under every task

  Scenario: An engine that dies under a task
    Given Ada has submitted "broken" to pool "frail"
      | max_tokens | 50 |
    Then "broken" breaks with WORKER_RESET
    And the status of "broken" says
      | state      | failed       |
      | error      | WORKER_RESET |
      | tokens_out | 5            |
    And the log says of "broken", each in one sentence
      | task_failed |
    And pool "frail" comes back by itself
