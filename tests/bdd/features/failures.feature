@slow
Feature: Failures
  An engine that dies breaks the stream of its task, says so, and comes back by itself.

  Background:
    Given the workstation "varied"

  Scenario: An engine that dies under a task
    Given the engine of pool "frail" dies under every task
    And Ada has submitted "broken" to pool "frail"
      | max_tokens | 50 |
    Then "broken" breaks with WORKER_RESET
    And the status of "broken" says
      | state      | failed       |
      | error      | WORKER_RESET |
      | tokens_out | 5            |
    And the log says of "broken", each in one sentence
      | task_failed |
    And pool "frail" comes back by itself

  Scenario: An engine that falls silent is not waited for for ever, and its slot serves the next
    Given Ada has submitted "unheard" to pool "stuck"
      | max_tokens | 50 |
    And Bob has submitted "next" to pool "stuck"
      | max_tokens | 2 |
    Then "unheard" breaks with DECODE_TIMEOUT
    And the status of "unheard" says
      | tokens_out | 3 |
    And "next" ends with length after 2 tokens
